"""The rankers that train a network on the item sequences."""

from __future__ import annotations

import gc
import hashlib
import itertools
import logging
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from fitting import fitted as fitted_by_name
from fitting import given
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st
from pydantic import ValidationError

from trsr.data import Catalog
from trsr.errors import DataError, ModelError
from trsr.rankers import FitData, FitOptions, RankSettings
from trsr.rankers.sequential.forward import MASK, PAD, Forward, batches, padded, windows
from trsr.rankers.sequential.networks import NETWORKS, SPREAD, ItemTable
from trsr.rankers.sequential.training import Held, cross_entropy, fit, ndcg
from trsr.rankers.settings import SequentialSettings, ranker_class
from trsr.types import Case, Interaction, Item, Query, UserHistory

ITEMS = 12
SMALL = {
    "hidden": 32,
    "max_length": 6,
    "batch_size": 16,
    "learning_rate": 0.01,
    "max_epochs": 30,
    "patience": 30,
    "dropout": 0.1,
}
SETTINGS = {
    "sasrec": SequentialSettings(**SMALL),
    "gru4rec": SequentialSettings(**SMALL),
    # It learns from the masked items alone, so it needs more passes.
    "bert4rec": SequentialSettings(
        **SMALL
        | {"max_epochs": 250, "patience": 250, "learning_rate": 0.005, "dropout": 0, "layers": 1},
    ),
}
TINY = {"hidden": 8, "max_epochs": 2}
KINDS = sorted(NETWORKS)
WORDS = ("red", "blue", "green", "old")


def item(number: int) -> Item:
    return Item(f"i{number:02}", (("title", f"{WORDS[number % 4]} thing"), ("n", str(number))))


def cycle(start: int, length: int) -> list[int]:
    """Each item is followed by the next one, the last by the first."""
    return [(start + n) % ITEMS for n in range(length)]


def frame(sequences: Sequence[Sequence[int]]) -> pl.DataFrame:
    rows = [
        (f"u{user:02}", item(number).id, float(time))
        for user, sequence in enumerate(sequences)
        for time, number in enumerate(sequence)
    ]
    return pl.DataFrame(rows, schema=["user", "item", "time"], orient="row")


def catalog(items: int = ITEMS + 4) -> Catalog:
    rows = [(one.id, *(value for _, value in one.fields)) for one in map(item, range(items))]
    return Catalog(pl.DataFrame(rows, schema=["id", "title", "n"], orient="row"))


def neural(
    kind: str,
    interactions: pl.DataFrame,
    settings: SequentialSettings,
    *,
    name: str = "",
    embed=None,
    of: Catalog | None = None,
    validation: Sequence[Case] = (),
    **options,
) -> Any:
    """A fitted network's ranker."""
    of = of or catalog()
    ranker = ranker_class(kind)(settings, given(of), name or kind)
    ranker.embed = embed or ranker.embed
    ranker.fit(FitData(of, interactions, validation=lambda: validation), FitOptions(**options))
    return ranker


def query(name: str, history: Sequence[int], candidates: Sequence[int] = range(ITEMS)) -> Query:
    met = tuple(Interaction(item(number), float(time)) for time, number in enumerate(history))
    return Query(name, UserHistory("u", met), tuple(map(item, candidates)))


def scores(ranker, *queries: Query) -> list[dict[str, float]]:
    return [{entry.item: entry.score for entry in one} for one in ranker.rank(queries)]


def embed(texts: Sequence[str]) -> np.ndarray:
    """A vector a text; texts that begin with the same word are alike."""

    def drawn(text: str) -> np.ndarray:
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
        return np.random.default_rng(seed).normal(size=20)

    return np.stack([drawn(text.split()[0]) + 0.1 * drawn(text) for text in texts])


CYCLES = frame([cycle(start, 4 + start % 6) for start in range(ITEMS)] * 3)


@pytest.fixture(scope="module")
def fitted(one_thread: None):
    return {kind: neural(kind, CYCLES, SETTINGS[kind]) for kind in KINDS}


@pytest.fixture(scope="module")
def with_text(one_thread: None):
    return neural("sasrec_text", CYCLES, SETTINGS["sasrec"], embed=embed)


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns_which_item_follows(kind: str, fitted) -> None:
    queries = [query(f"q{start}", cycle(start, 4)) for start in range(ITEMS)]
    first = [max(found, key=found.__getitem__) for found in scores(fitted[kind], *queries)]
    right = sum(one == item((start + 4) % ITEMS).id for start, one in enumerate(first))
    # of 12; chance is 1: sums in another order (AVX2, AVX-512, AMX) may cost a network a few
    assert right >= 8


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_scores_and_another_seed_others(kind: str) -> None:
    short = SETTINGS[kind].model_copy(update={"max_epochs": 2})
    asked = query("q", [3, 4, 5])

    def trained(seed: int) -> list[dict[str, float]]:
        # What was drawn before must not matter, nor must the order of the rows of other users.
        torch.manual_seed(np.random.default_rng(seed).integers(99))
        state = torch.random.get_rng_state()
        rows = CYCLES.sample(fraction=1, shuffle=True, seed=seed)
        found = scores(neural(kind, rows, short, seed=seed // 10), asked)
        assert torch.equal(torch.random.get_rng_state(), state)
        return found

    assert trained(1) == trained(2)
    assert trained(1) != trained(10)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=8)
@drawn(
    histories=st.lists(st.lists(st.integers(0, ITEMS - 1), max_size=12), min_size=1, max_size=12),
    order=st.randoms(use_true_random=False),
)
def test_neither_order_nor_batch_mates_change_a_score(kind, histories, order, fitted) -> None:
    queries = [query(f"q{n}", history) for n, history in enumerate(histories)]
    alone = {one.id: scores(fitted[kind], one)[0] for one in queries}
    order.shuffle(queries)
    for one, found in zip(queries, scores(fitted[kind], *queries), strict=True):
        assert found == pytest.approx(alone[one.id], abs=1e-4, rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_latest_items_are_read(kind: str, fitted) -> None:
    long, short = query("q", [9, 9, 9, 2, 3, 4, 5, 6, 7]), query("q", [2, 3, 4, 5, 6, 7])
    assert scores(fitted[kind], long) == scores(fitted[kind], short)
    other = query("q", [2, 3, 4, 5, 7, 6])
    assert scores(fitted[kind], other) != scores(fitted[kind], short)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layers", [1, 3])
def test_numpy_scores_as_torch_does(kind: str, layers: int) -> None:
    size = {"hidden": 16, "layers": layers, "max_length": 7}
    own = type(SETTINGS[kind])(**size)
    texts = np.random.default_rng(0).normal(size=(9, 5))
    torch.manual_seed(3)
    for use in ("none", "start", "add", "only"):
        network = NETWORKS[kind](ItemTable(9, 16, use, texts), own, 0.3).eval()
        with torch.no_grad():
            for weight in network.parameters():  # also those that begin as 0 or 1
                weight.add_(torch.randn_like(weight) * 0.3)
        weights = {name: one.numpy() for name, one in network.state_dict().items()}
        histories = [np.array(one) for one in ([1], [2, 3, 4], [8, 7, 6, 5, 4, 3, 2, 1, 0])]
        more = None if use == "none" else np.random.default_rng(1).normal(size=(2, 5))
        if more is not None:
            histories.append(np.array([1, 10, 9]))
        found = Forward(kind, own, weights).log_probabilities(histories, more)
        assert found == pytest.approx(
            network.log_probabilities(histories, more), abs=2e-5, rel=2e-5
        )


@pytest.mark.parametrize("kind", ["sasrec", "gru4rec"])
def test_a_state_knows_nothing_of_later_items(kind: str, fitted) -> None:
    network = fitted[kind].network
    one = torch.tensor([[0, 1, 2, 3, 4, PAD], [0, 1, 2, 9, 8, 7]])
    with torch.no_grad():
        first, second = network.states(one, network.items())
    assert torch.allclose(first[:3], second[:3], atol=1e-6)
    assert not torch.allclose(first[3], second[3], atol=1e-3)


def test_bert_fills_in_from_both_sides(fitted) -> None:
    network = fitted["bert4rec"].network
    with torch.no_grad():
        systems = network.states(torch.tensor([[2, MASK, 4], [2, MASK, 9]]), network.items())
    assert not torch.allclose(systems[0, 1], systems[1, 1], atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_without_text_unseen_items_tie_with_the_lowest(kind: str, fitted) -> None:
    (found,) = scores(fitted[kind], query("q", [1, 2], range(ITEMS + 3)))
    unseen = {found[item(n).id] for n in range(ITEMS, ITEMS + 3)}
    assert unseen == {min(found[item(n).id] for n in range(ITEMS))}
    # also where the lowest of the items of training is no candidate
    (few,) = scores(fitted[kind], query("q", [1, 2], [3, ITEMS]))
    assert few[item(ITEMS).id] in unseen
    # and in a history they are passed over
    passed = scores(fitted[kind], query("q", [1, ITEMS, 2]))[0]
    assert passed == pytest.approx(scores(fitted[kind], query("q", [1, 2]))[0])


def test_an_empty_history_scores_by_popularity() -> None:
    few = SETTINGS["gru4rec"].model_copy(update={"max_epochs": 1})
    ranker = neural("gru4rec", frame([[0, 1, 0], [0, 2], [2, 0, 1]]), few)
    for history in ([], [ITEMS]):
        (found,) = scores(ranker, query("q", history, [0, 1, 2, 3]))
        assert np.exp([found[item(n).id] for n in range(4)]) == pytest.approx(
            [4 / 8, 2 / 8, 2 / 8, 2 / 8]
        )


@pytest.mark.parametrize("kind", KINDS)
def test_one_user_is_enough(kind: str) -> None:
    few = SETTINGS[kind].model_copy(update={"max_epochs": 2})
    ranker = neural(kind, frame([cycle(0, 20)]), few)
    assert np.isfinite(list(scores(ranker, query("q", [1]))[0].values())).all()


def test_users_with_one_interaction_teach_no_order() -> None:
    with pytest.raises(DataError, match=r"ranker sasrec: no user has two .* rank\.rankers"):
        neural("sasrec", frame([[0], [1]]), SETTINGS["sasrec"])


def test_text_scores_unseen_items_and_reads_them(with_text) -> None:
    (found,) = scores(with_text, query("q", [1, 2, 3], range(ITEMS + 4)))
    assert len({found[item(n).id] for n in range(ITEMS, ITEMS + 4)}) == 4
    assert max(found, key=found.__getitem__) == item(4).id
    # what follows is "green": of the unseen items the green one is liked best
    (found,) = scores(with_text, query("q", [3, 4, 5], range(ITEMS, ITEMS + 4)))
    assert WORDS[int(max(found, key=found.__getitem__)[1:]) % 4] == "green"
    one, other = scores(with_text, query("q", [2, ITEMS]), query("q", [2, ITEMS + 1]))
    assert one != pytest.approx(other, abs=1e-3)


@pytest.fixture(scope="module")
def text_alone(one_thread: None):
    kinds = ("sasrec", "gru4rec")
    return {kind: neural(f"{kind}_llm2rec", CYCLES, SETTINGS[kind], embed=embed) for kind in kinds}


@pytest.mark.parametrize("kind", ["sasrec", "gru4rec"])
def test_with_texts_alone_an_item_is_its_text_and_a_new_one_ranks_by_it(kind, text_alone) -> None:
    ranker = text_alone[kind]
    assert "items.own" not in ranker.forward.weights
    twin = Item("twin", item(4).fields)
    asked = Query("q", query("q", [1, 2, 3]).history, (twin, *map(item, range(ITEMS))))
    (found,) = scores(ranker, asked)
    assert found.pop("twin") == pytest.approx(found["i04"], abs=1e-6)
    assert int(max(found, key=found.__getitem__)[1:]) % 4 == 0  # red follows old
    # what follows is "green": of the new items the green one is liked best
    (found,) = scores(ranker, query("q", [3, 4, 5], range(ITEMS, ITEMS + 4)))
    assert WORDS[int(max(found, key=found.__getitem__)[1:]) % 4] == "green"
    with pytest.raises(DataError, match=f"ranker {kind}_llm2rec: no item of training has a text"):
        neural(f"{kind}_llm2rec", CYCLES, SETTINGS[kind], of=Catalog(catalog().frame.select("id")))


def test_vectors_dealt_to_wrong_items_tell_less_than_numbers_alone() -> None:
    # colour follows colour, whichever item it is: a user has seen few items of many
    rng, items = np.random.default_rng(0), 48
    of = catalog(items)

    def walk(start: int) -> list[int]:
        return [int(rng.integers(items // 4)) * 4 + (start + n) % 4 for n in range(6)]

    sequences = [walk(start) for start in rng.integers(4, size=60).tolist()]
    asked = [walk(start) for start in rng.integers(4, size=60).tolist()]
    dealt = dict(zip(map(str, range(items)), rng.permutation(items).tolist(), strict=True))

    def permuted(texts: Sequence[str]) -> np.ndarray:
        wrong = [item(dealt[text.rpartition(" ")[2]]) for text in texts]
        return embed([f"{one.fields[0][1]}. {one.fields[1][1]}" for one in wrong])

    def rank_of_the_answer(name: str, using=None) -> float:
        few = SETTINGS["sasrec"].model_copy(update={"max_epochs": 15})
        ranker = neural(name, frame(sequences), few, embed=using, of=of)
        every = range(items)
        found = scores(ranker, *(query(str(n), one[:-1], every) for n, one in enumerate(asked)))
        return float(
            np.mean(
                [
                    sum(value >= own[item(one[-1]).id] for value in own.values())
                    for own, one in zip(found, asked, strict=True)
                ]
            )
        )

    right = rank_of_the_answer("sasrec_llm2rec", embed)
    wrong = rank_of_the_answer("sasrec_llm2rec", permuted)
    numbers = rank_of_the_answer("sasrec")
    assert right < numbers - 2
    assert wrong > numbers - 1


def test_an_unseen_item_without_text_is_the_lowest(with_text) -> None:
    asked = Query("q", query("q", [1]).history, (item(1), Item("bare")))
    (found,) = scores(with_text, asked)
    everything = scores(with_text, query("q", [1]))[0].values()
    assert found["bare"] == pytest.approx(min(everything), abs=1e-5)


def test_batch_mates_change_nothing_with_text_either(with_text) -> None:
    queries = [query(f"q{n}", [n, ITEMS + n % 4], range(n, ITEMS + 4)) for n in range(9)]
    together = scores(with_text, *queries)
    for one, found in zip(queries, together, strict=True):
        assert scores(with_text, one)[0] == pytest.approx(found, abs=1e-5)


def test_vectors_that_start_from_text_are_its_main_components() -> None:
    texts = np.random.default_rng(0).normal(size=(40, 7)) * [9, 5, 3, 1, 1, 1, 1] + 4
    table = ItemTable(40, 3, "start", texts)
    vectors = table().detach().numpy()
    assert vectors.std() == pytest.approx(SPREAD, rel=1e-3)
    assert np.abs(vectors.mean(axis=0)).max() < 1e-6
    # As scaled principal components: the Gram matrix is that of the best rank-3 approximation.
    centred = texts - texts.mean(axis=0)
    left, strength, _ = np.linalg.svd(centred, full_matrices=False)
    expected = (left[:, :3] * strength[:3] ** 2) @ left[:, :3].T
    gram = vectors @ vectors.T
    assert gram / gram.trace() == pytest.approx(expected / expected.trace(), abs=1e-6)
    assert table.of_texts(texts).numpy() == pytest.approx(vectors, abs=1e-6)


def test_with_fewer_components_than_entries_the_rest_is_random() -> None:
    texts = np.random.default_rng(0).normal(size=(40, 3))
    vectors = ItemTable(40, 5, "start", texts)().detach().numpy()
    assert (vectors.std(axis=0) > SPREAD / 3).all()
    added = ItemTable(40, 5, "add", texts)
    assert added.of_texts(texts)[:, 3:].abs().max() == 0
    assert np.isfinite(ItemTable(4, 5, "start", np.ones((4, 3)))().detach().numpy()).all()


@pytest.mark.parametrize(("name", "text"), [("sasrec_text", "add"), ("bert4rec_text", "start")])
def test_the_runs_embedding_model_is_asked_where_none_is_given(name: str, text: str) -> None:
    settings = RankSettings(sequential=TINY)
    ranker = fitted_by_name(name, catalog(), CYCLES, settings)
    assert ranker.network.items.text == text
    (found,) = scores(ranker, query("q", [1, 2], range(ITEMS + 3)))
    assert len(set(found.values())) == ITEMS + 3


def test_where_no_item_has_text_it_is_trained_without(caplog) -> None:
    bare = Catalog(catalog().frame.select("id"))
    few = SETTINGS["sasrec"].model_copy(update={"max_epochs": 1})
    ranker = neural("sasrec_text", CYCLES, few, of=bare)
    assert ranker.network.items.text == "none"
    assert "no item of training has text" in caplog.text


def test_an_item_without_text_starts_at_the_mean() -> None:
    frame_ = catalog().frame.with_columns(
        pl.when(pl.col("id") != item(3).id).then(pl.col("title", "n"))
    )
    few = SETTINGS["sasrec"].model_copy(update={"max_epochs": 1})
    ranker = neural("sasrec_text", CYCLES, few, of=Catalog(frame_), embed=embed)
    assert ranker.network.items.texts[3].abs().max() < 1e-6
    assert ranker.network.items.texts[4].abs().max() > 0.1


def test_validation_decides_when_to_stop(caplog) -> None:
    """The validation cases say the opposite of the training data: the first pass stays the best."""
    caplog.set_level(logging.INFO, "trsr.rankers.sequential.training")
    cases = [
        Case(query(f"v{start}", cycle(start, 3)), frozenset({item((start + 1) % ITEMS).id}))
        for start in range(ITEMS)
    ]
    quick = SETTINGS["gru4rec"].model_copy(update={"patience": 3, "max_epochs": 30})
    ranker = neural("gru4rec", CYCLES, quick, validation=cases)
    found = [record.args[3] for record in caplog.records]
    assert len(found) < 30
    assert found.index(max(found)) == len(found) - 4
    assert ranker.chosen == {
        "dropout": 0.1,
        "learning_rate": 0.01,
        "passes": len(found) - 3,
        "on": "ndcg@10 over all items",
        "score": max(found),
        "cases": ITEMS,
        "tried": 1,
        "why": "the only setting",
    }
    held = [
        Held(np.array(cycle(start, 3)), np.array([(start + 1) % ITEMS])) for start in range(ITEMS)
    ]
    assert ndcg(ranker.network, held) == pytest.approx(max(found))


class Told:
    """Notes what progress is told."""

    def __init__(self) -> None:
        self.begun: list[tuple[int | None, str]] = []
        self.notes: list[tuple[int, str]] = []

    def begin(self, total: int | None, unit: str) -> None:
        self.begun.append((total, unit))

    def advance(self, steps: int = 1, note: str = "") -> None:
        self.notes.append((steps, note))


FOLLOWING = [
    Case(query(f"v{start}", cycle(start, 3)), frozenset({item((start + 3) % ITEMS).id}))
    for start in range(ITEMS)
]


def test_validation_chooses_the_dropout_and_the_learning_rate() -> None:
    def trained(**settings) -> tuple:
        told = Told()
        made = SequentialSettings(**TINY | settings)
        ranker = neural("sasrec", CYCLES, made, validation=FOLLOWING, progress=told)
        return ranker.chosen, scores(ranker, query("q", [1, 2])), told

    values = {"dropout": [0.0, 0.5], "learning_rate": [1e-6, 0.05]}
    chosen, answers, told = trained(**values)
    alone = {
        pair: trained(dropout=pair[0], learning_rate=pair[1])
        for pair in itertools.product(*values.values())
    }
    best = max(alone, key=lambda pair: alone[pair][0]["score"])
    assert (chosen["dropout"], chosen["learning_rate"]) == best
    own, same, plain = alone[best]
    assert answers == same  # each is trained with the same draws, whatever was trained before it
    more = {"tried": 4, "why": f"best of 4 on {ITEMS} cases"}
    assert chosen == own | more

    assert plain.begun == [(None, "passes")]
    assert [steps for steps, _ in plain.notes] == [1, 1]
    assert told.begun == [(4, "settings of sasrec")]
    assert [steps for steps, _ in told.notes] == [0, 0, 1] * 4
    first = told.notes[0][1]
    assert first.startswith("sasrec, dropout 0, learning_rate 1e-06: pass 1, loss ")
    assert ", validation NDCG@10 0." in first
    assert plain.notes[0][1].startswith("sasrec: loss ")


def test_equals_keep_the_first_and_no_third_network_is_held(monkeypatch) -> None:
    made: list[weakref.ref] = []
    most = 0

    def counted(*given):
        nonlocal most
        network = NETWORKS["gru4rec"](*given)
        made.append(weakref.ref(network))
        gc.collect()
        most = max(most, sum(one() is not None for one in made))
        return network

    monkeypatch.setattr("trsr.rankers.sequential.training.NETWORKS", {"gru4rec": counted})
    # one layer has no dropout between layers: with a rate that changes nothing all are alike
    several = SequentialSettings(**TINY | {"dropout": (0.3, 0.1, 0.2, 0.0), "learning_rate": 1e-12})
    ranker = neural("gru4rec", CYCLES, several, validation=FOLLOWING)
    assert ranker.chosen["dropout"] == 0.3
    assert (len(made), most) == (4, 2)


def test_without_cases_to_choose_on_the_first_settings_are_taken() -> None:
    several = SequentialSettings(**TINY | {"dropout": (0.5, 0.0), "learning_rate": (1e-3, 1e-2)})
    ranker = neural("gru4rec", frame([cycle(0, 9), cycle(3, 9)]), several)
    assert ranker.chosen["dropout"] == 0.5
    assert ranker.chosen["learning_rate"] == 1e-3
    assert (ranker.chosen["cases"], ranker.chosen["tried"]) == (0, 1)
    why = "no validation cases, and too few users to keep any back: the first setting"
    assert ranker.chosen["why"] == why
    # interactions that are kept back are cases to choose on
    ranker = neural("gru4rec", frame([cycle(n % ITEMS, 5) for n in range(120)]), several)
    assert ranker.chosen["why"] == "best of 4 on 12 cases"


def test_a_number_alone_is_a_list_of_one() -> None:
    own = RankSettings(sequential={"dropout": 0, "learning_rate": 5e-4}).table("sasrec")
    assert (own.dropout, own.learning_rate) == ((0.0,), (5e-4,))
    assert own == SequentialSettings(dropout=[0.0], learning_rate=[5e-4])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"dropout": []}, "at least 1 item"),
        ({"learning_rate": []}, "at least 1 item"),
        ({"dropout": 1}, "less than 1"),
        ({"dropout": [0.1, -0.1]}, "greater than or equal to 0"),
        ({"learning_rate": [1e-3, 0]}, "greater than 0"),
        ({"learning_rate": "fast"}, "valid number"),
    ],
)
def test_lists_without_a_value_that_can_be_are_refused(settings, said) -> None:
    with pytest.raises(ValidationError, match=said):
        RankSettings(sequential=settings)


def test_the_seed_of_training_draws_the_network_and_not_the_cases() -> None:
    few = SequentialSettings(**TINY)

    def trained(**seeds) -> list[dict[str, float]]:
        return scores(neural("gru4rec", CYCLES, few, **seeds), query("q", [1, 2]))

    assert trained() == trained(train_seed=0) != trained(train_seed=1)

    several = frame([cycle(n % ITEMS, 5 + n % 3) for n in range(120)])
    kept: list[list] = []
    for seed in (0, 1):
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(
                "trsr.rankers.sequential.training.fit",
                lambda *given, **_: kept.append(given[3]) or 1 / 0,
            )
            with pytest.raises(ZeroDivisionError):
                neural("gru4rec", several, few, train_seed=seed)
    one, other = ([held.history.tolist() for held in found] for found in kept)
    assert one == other


def test_without_validation_cases_last_items_are_kept_back(caplog) -> None:
    caplog.set_level(logging.INFO)
    few = SETTINGS["gru4rec"].model_copy(update={"max_epochs": 1})
    neural("gru4rec", frame([cycle(n % ITEMS, 5) for n in range(120)]), few)
    assert "the last items of 12 users instead" in caplog.text


def test_ndcg_by_hand() -> None:
    class Fixed:
        def log_probabilities(self, histories):
            return np.array([[5.0, 4.0, 3.0, 3.0, 1.0]] * len(histories))

    def of(*relevant: int, at: int = 10, history: int = 4) -> float:
        return ndcg(Fixed(), [Held(np.array([history]), np.array(relevant))], at)

    assert of(0) == 1
    assert of(1) == pytest.approx(1 / np.log2(3))
    assert of(2) == of(3) == pytest.approx(1 / np.log2(5))  # a tie counts as the worse rank
    assert of(4, at=4) == 0
    assert of(2, history=0) == of(3, history=1) == pytest.approx(0.5)  # what was met is no rival
    assert of(0, history=0) == 1
    assert of(0, 4) == pytest.approx((1 + 1 / np.log2(6)) / (1 + 1 / np.log2(3)))


def test_the_loss_in_parts_is_the_loss_at_once() -> None:
    states = torch.randn(11, 8, requires_grad=True)
    table = torch.randn(5, 8, requires_grad=True)
    targets = torch.arange(11) % 5
    results = []
    for most in (10**9, 15, 1):
        loss = cross_entropy(states, table, targets, most)
        results.append((loss, *torch.autograd.grad(loss, (states, table))))
    for part in results[1:]:
        for one, other in zip(results[0], part, strict=True):
            assert torch.allclose(one, other, atol=1e-6)


@drawn(st.integers(0, 40), st.integers(1, 9), st.integers(0, 5))
def test_windows_hold_each_following_once(length: int, size: int, seed: int) -> None:
    found = list(windows(np.arange(length), size, np.random.default_rng(seed)))
    assert all(2 <= len(one) <= size + 1 for one in found)
    pairs = [(a, b) for one in found for a, b in itertools.pairwise(one)]
    assert pairs == [(n, n + 1) for n in range(length - 1)]


@drawn(st.lists(st.integers(2, 9), max_size=60), st.integers(1, 7), st.integers(0, 3))
def test_batches_hold_each_window_once(lengths: list[int], size: int, seed: int) -> None:
    made = [np.full(length, n) for n, length in enumerate(lengths)]
    found = list(batches(made, size, np.random.default_rng(seed)))
    assert sorted(int(one[0]) for batch in found for one in batch) == list(range(len(made)))
    assert all(len(batch) <= size for batch in found)


@drawn(st.lists(st.integers(2, 7), min_size=1, max_size=20), st.integers(0, 9))
def test_masks_hide_items_and_nothing_else(lengths: list[int], seed: int) -> None:
    network = NETWORKS["bert4rec"](ItemTable(9, 32), SETTINGS["bert4rec"], 0.0)
    batch = padded([np.arange(length) for length in lengths])
    inputs, targets = network.examples(batch, np.random.default_rng(seed))
    assert ((inputs == MASK) == (targets != PAD)).all()
    assert (np.where(inputs == MASK, targets, inputs) == batch).all()
    assert (targets != PAD).any(axis=1).all()


def test_a_loss_that_is_no_number_is_an_error() -> None:
    wild = SETTINGS["sasrec"].model_copy(update={"learning_rate": (1e30,)})
    with pytest.raises(ModelError, match=r"learning_rate = 1e\+30: lower the network"):
        fit("sasrec", [np.arange(9)] * 40, 9, [], wild, seed=0)


def test_an_odd_length_that_heads_do_not_divide_is_refused() -> None:
    with pytest.raises(ValidationError, match="multiple of 2"):
        RankSettings(sequential={"hidden": 31})


def test_the_settings_that_decide_are_those_of_the_rankers_asked_for() -> None:
    one = RankSettings(rankers=("popular", "sasrec"), sequential=SequentialSettings(layers=1))
    assert one.meaning() == one.model_copy(update={"blend": {"members": ["bm25"]}}).meaning()
    assert one.meaning() != RankSettings(rankers=("popular", "sasrec")).meaning()


def test_each_kind_has_its_own_values_where_none_is_given():
    given = SequentialSettings(average_decay=0.0, patience=3)
    assert (given.of("bert4rec").average_decay, given.of("bert4rec").patience) == (0.0, 3)
    assert SequentialSettings().of("bert4rec").average_decay == 0.85
    assert [SequentialSettings().of(kind).layers for kind in KINDS] == [2, 1, 2]


def test_a_table_that_rankers_share_is_named() -> None:
    with pytest.raises(ValidationError, match=r"sasrec reads the settings of \[rank.sequential\]"):
        RankSettings(sasrec={"hidden": 8})


def test_which_rankers_read_embeddings() -> None:
    names = ("sasrec", "gru4rec", "sasrec_text", "popular")
    assert RankSettings(rankers=names).embedding == ("sasrec_text",)
    both = RankSettings(rankers=("bert4rec", "bert4rec_text"))
    assert both.embedding == ("bert4rec_text",)


def test_what_is_kept_may_be_a_moving_average_of_the_weights():
    def weights(decay: float, passes: int) -> dict[str, torch.Tensor]:
        used = SequentialSettings(**SMALL | {"average_decay": decay, "max_epochs": passes})
        sequences = [np.array(cycle(user, 4)) for user in range(16)]  # one step a pass
        return fit("bert4rec", sequences, ITEMS, [], used, seed=3).network.state_dict()

    with_one, first = weights(0.75, 1), weights(0, 1)
    second, averaged = weights(0, 2), weights(0.75, 2)
    for name in first:
        assert torch.equal(with_one[name], first[name])  # nothing to average yet
        expected = 0.75 * first[name] + 0.25 * second[name]
        assert torch.allclose(averaged[name], expected, atol=1e-6)
    assert any(not torch.equal(averaged[name], second[name]) for name in first)
