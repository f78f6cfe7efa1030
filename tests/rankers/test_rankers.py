"""What every ranker must do, and what each does."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import polars as pl
import pytest
from fitting import ScoringAuthor, fitted, titles
from hypothesis import given, settings
from hypothesis import strategies as st

from trsr.data import Catalog
from trsr.errors import ConfigError, DataError, ModelError, PromptError
from trsr.rankers import (
    RANKERS,
    PointwiseLLMRanker,
    QueryBatch,
    Ranker,
    RankSettings,
    ScoreBatch,
    p_yes,
    rank_what_fits,
    ranked,
    scored,
)
from trsr.rankers.batch import ASKED
from trsr.settings import derive_seed
from trsr.types import Case, Interaction, Item, Message, Prompt, Query, UserHistory

ITEMS = [Item(f"i{n}", (("title", f"film {1990 + n}"),)) for n in range(12)]
INTERACTIONS = pl.DataFrame(
    {"user": ["u", "u", "v", "w"], "item": ["i1", "i2", "i1", "i3"], "time": [1.0, 2.0, 3.0, 4.0]}
)

RANK_KINDS = {"llm", "llm_zero_shot", "llm_item_only"}
TEXTS = ("bert4rec_text", "sasrec_text", "sasrec_llm2rec", "gru4rec_llm2rec")
NETWORKS = ("sasrec", "gru4rec", "bert4rec", *TEXTS)
QUICK = RankSettings(sequential={"hidden": 8, "layers": 1, "max_epochs": 1})


def query(name: str, *items: int) -> Query:
    return Query(name, UserHistory("u", ()), tuple(ITEMS[n] for n in items or range(5)))


class Words:
    """Writes `query item` as the prompt; refuses the queries in `too_long`."""

    answers = ("Yes", "No")

    def __init__(self, too_long: Iterable[str] = ()) -> None:
        self.too_long = set(too_long)

    def rank(self, query: Query) -> list[Prompt]:
        if query.id in self.too_long:
            raise PromptError(f"query {query.id}: does not fit")
        return [Prompt((Message("user", f"{query.id} {c.id}"),)) for c in query.candidates]


class Judge:
    """Says yes by the item's number, with a tiny difference between big margins."""

    identity = "rank"
    context_tokens = 100

    def __init__(self, margin=None) -> None:
        self.calls: list[list[str]] = []
        self.margin = margin or (lambda text: float(text.split(" i")[1]))

    def score(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> np.ndarray:
        assert tuple(answers) == ("Yes", "No")
        texts = [prompt.messages[-1].content for prompt in prompts]
        self.calls.append(texts)
        return np.array([[-1.0, -1.0 - self.margin(text)] for text in texts])


def rank(tuned: bool, compressed: bool = False):
    return Judge(lambda text: (1 if tuned else -1) * float(text.split(" i")[1])), Words()


CATALOG = Catalog(
    pl.DataFrame({"id": [i.id for i in ITEMS], "title": [dict(i.fields)["title"] for i in ITEMS]})
)
VALID = [Case(query(f"v{n}", n, n + 1, n + 2), frozenset({f"i{n}"})) for n in range(6)]


@functools.cache
def made(name: str, seed: int = 0) -> Ranker:
    author = titles(ScoringAuthor(f"film {1990 + n % 4}" for n in range(10)))
    words = {"train": VALID, "valid": VALID, "model": rank, "titles": author}
    return fitted(name, CATALOG, INTERACTIONS, QUICK, **words, seed=seed)


@pytest.mark.parametrize("name", RANKERS.names())
def test_every_ranker_answers_each_query_once_in_order_with_all_candidates(name: str) -> None:
    queries = [query(f"q{n}", *range(n % 4, n % 4 + 1 + n % 5)) for n in range(30)]
    lists = list(made(name).rank(iter(queries)))
    assert [one.query for one in lists] == [one.id for one in queries]
    for asked, given_back in zip(queries, lists, strict=True):
        assert {entry.item for entry in given_back} == {item.id for item in asked.candidates}


@pytest.mark.parametrize("name", RANKERS.names())
def test_every_ranker_is_lazy(name: str) -> None:
    read = []

    def endless() -> Iterator[Query]:
        for n in range(10_000):
            read.append(n)
            yield query(f"q{n}")

    ranker = made(name)
    next(ranker.rank(endless()))
    assert len(read) <= ranker.batch_size


@pytest.mark.parametrize("name", RANKERS.names())
def test_every_ranker_is_the_same_once_it_is_saved_and_loaded(name: str, tmp_path) -> None:
    queries = [query(f"q{n}", *range(n % 4, n % 4 + 1 + n % 5)) for n in range(9)]
    other = Item("i3", (("title", "film of another text"),))
    history = UserHistory("u", (Interaction(ITEMS[1], 1.0), Interaction(other, 2.0)))
    queries.append(Query("told", history, (*ITEMS[4:9], other, Item("i99", (("title", "a"),)))))
    ranker = made(name)
    ranker.save(tmp_path)
    again = type(ranker).load(tmp_path, ranker.resources)
    assert list(again.rank(queries)) == list(ranker.rank(queries))
    assert (again.name, again.config, again.chosen) == (name, ranker.config, ranker.chosen)
    kinds = {path.suffix for path in tmp_path.iterdir()}
    assert kinds <= {".json", ".npy", ".safetensors"}


@pytest.mark.parametrize("name", sorted(set(RANKERS.names()) - RANK_KINDS))
def test_every_ranker_scores_a_whole_catalogue_as_it_scores_candidates(name: str) -> None:
    ranker = made(name)
    seen = UserHistory("u", (Interaction(ITEMS[1], 1.0), Interaction(ITEMS[3], 2.0)))
    asked = [("a", seen, None), ("b", UserHistory("v", ()), None)]
    batch = QueryBatch.whole(asked, CATALOG)
    found = list(ranked(batch, scored(ranker, batch)).lists())
    unseen = tuple(item for item in CATALOG if item.id not in ("i1", "i3"))
    candidates = (unseen, tuple(CATALOG))
    few = ranker.rank(
        Query(name, history, items)
        for (name, history, _), items in zip(asked, candidates, strict=True)
    )
    for whole, one in zip(found, few, strict=True):
        by_item = {entry.item: entry.score for entry in one}
        assert {e.item: e.score for e in whole} == pytest.approx(by_item, abs=1e-9)


@pytest.mark.parametrize("name", RANKERS.names())
def test_no_ranker_minds_the_order_of_candidates(name: str) -> None:
    (one,) = made(name).rank([query("q", 1, 2, 3, 4, 0)])
    (other,) = made(name).rank([query("q", 4, 0, 3, 2, 1)])
    assert {e.item: e.score for e in one} == {e.item: e.score for e in other}


def test_an_unknown_ranker_is_refused_with_a_hint() -> None:
    with pytest.raises(ConfigError, match="did you mean popular"):
        made("populer")


def test_the_tuned_and_the_untuned_model_are_asked_for_by_name() -> None:
    (tuned,) = made("llm").rank([query("q")])
    (untuned,) = made("llm_zero_shot").rank([query("q")])
    assert [e.item for e in tuned] == [e.item for e in untuned][::-1]


def test_popular_counts_training_interactions_and_leaves_ties_tied() -> None:
    (found,) = made("popular").rank([query("q", 0, 3, 2, 1, 4)])
    assert [(e.item, e.score) for e in found] == [
        *(("i1", 2.0), ("i3", 1.0), ("i2", 1.0), ("i0", 0.0), ("i4", 0.0))
    ]


def test_random_depends_on_seed_query_and_item_only() -> None:
    def scores(seed: int, name: str) -> dict[str, float]:
        (found,) = made("random", seed).rank([query(name)])
        return {entry.item: entry.score for entry in found}

    lot = derive_seed(1, "random ranker", "q", "i2") / 2**63
    assert scores(1, "q")["i2"] == lot
    assert scores(1, "q") != scores(2, "q")
    assert scores(1, "q") != scores(1, "p")
    drawn = [s for n in range(400) for s in scores(0, f"q{n}").values()]
    assert len(set(drawn)) == len(drawn)
    assert all(0 <= s < 1 for s in drawn)
    assert sum(drawn) / len(drawn) == pytest.approx(0.5, abs=0.03)


@settings(max_examples=20)
@given(st.lists(st.integers(1, 5), max_size=25))
def test_batches_hold_whole_queries_and_change_nothing(counts: list[int]) -> None:
    queries = [query(f"q{n}", *range(count)) for n, count in enumerate(counts)]
    model = Judge()
    lists = list(PointwiseLLMRanker(model, Words()).rank(queries))
    assert lists == [one for q in queries for one in PointwiseLLMRanker(Judge(), Words()).rank([q])]
    assert len(model.calls) == math.ceil(len(queries) / ASKED)
    assert [text for call in model.calls for text in call] == [
        f"{q.id} {item.id}" for q in queries for item in q.candidates
    ]


def test_the_score_is_the_margin_and_does_not_saturate() -> None:
    # The softmax rounds both to 1.0; the margin keeps them apart.
    (ranked,) = PointwiseLLMRanker(Judge(lambda t: 50 + float(t.split(" i")[1])), Words()).rank(
        [query("q")]
    )
    assert [entry.item for entry in ranked] == ["i4", "i3", "i2", "i1", "i0"]
    assert [entry.score for entry in ranked] == [54.0, 53.0, 52.0, 51.0, 50.0]
    assert p_yes(54.0) == p_yes(50.0) == 1.0


@given(st.floats(-800, 800))
def test_p_yes_is_the_softmax_over_the_two_answers(margin: float) -> None:
    assert 0 <= p_yes(margin) <= 1
    assert p_yes(margin) + p_yes(-margin) == pytest.approx(1)
    if abs(margin) < 30:
        yes, no = math.exp(margin / 2), math.exp(-margin / 2)
        assert p_yes(margin) == pytest.approx(yes / (yes + no))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_no_number_is_an_error_that_names_query_and_item(bad: float) -> None:
    ranker = PointwiseLLMRanker(Judge(lambda t: bad if t == "q1 i2" else 0.0), Words())
    with pytest.raises(ModelError, match=r"query q1: model rank .* candidate i2"):
        list(ranker.rank([query("q0"), query("q1")]))


def test_two_impossible_answers_are_an_error_too() -> None:
    class Broken(Judge):
        def score(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> np.ndarray:
            return np.full((len(prompts), 2), -math.inf)

    with pytest.raises(ModelError, match="gave nan"):
        list(PointwiseLLMRanker(Broken(), Words()).rank([query("q")]))


def test_a_model_that_answers_too_little_is_an_error() -> None:
    class Short(Judge):
        def score(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> np.ndarray:
            return super().score(prompts, answers)[1:]

    with pytest.raises(ModelError, match="5 × 2 log-probabilities and gave 4 × 2"):
        list(PointwiseLLMRanker(Short(), Words()).rank([query("q")]))


def test_a_prompt_that_cannot_fit_is_raised() -> None:
    with pytest.raises(PromptError, match="query q1"):
        list(PointwiseLLMRanker(Judge(), Words(["q1"])).rank([query("q0"), query("q1")]))


@settings(max_examples=20)
@given(st.sets(st.integers(0, 19)), st.integers(0, 20))
def test_ranking_what_fits_leaves_out_only_what_does_not(long: set[int], count: int) -> None:
    queries = [query(f"q{n}") for n in range(count)]
    too_long = {f"q{n}" for n in long}
    skipped: list[str] = []
    ranker = PointwiseLLMRanker(Judge(), Words(too_long))
    lists = list(rank_what_fits(ranker, queries, lambda q, error: skipped.append(q.id)))
    assert [one.query for one in lists] == [q.id for q in queries if q.id not in too_long]
    assert skipped == [q.id for q in queries if q.id in too_long]


class Odd(Ranker):
    """A ranker with bad manners."""

    def __init__(self, found: np.ndarray) -> None:
        super().__init__(name="odd")
        self.found = found

    def score(self, batch: QueryBatch) -> ScoreBatch:
        return ScoreBatch(self.found)


@pytest.mark.parametrize("shape", [(3, 5), (4, 6), (4,), (5, 4)])
def test_a_ranker_that_does_not_score_each_query_and_candidate_is_an_error(shape) -> None:
    queries = [query(f"q{n}") for n in range(4)]
    with pytest.raises(
        DataError, match=r"^the ranker odd gave scores of the shape .* from query q0"
    ):
        list(rank_what_fits(Odd(np.zeros(shape)), queries, lambda query, error: None))


def test_a_score_that_is_no_number_is_an_error_where_it_is_a_candidates() -> None:
    queries = [query("q0", 0, 1), query("q1", 1, 2)]
    found = np.zeros((2, 3))
    found[0, 2] = math.nan  # no candidate of q0
    assert len(list(Odd(found).rank(queries))) == 2
    found[1, 2] = math.nan
    with pytest.raises(DataError, match="^the ranker odd: query q1: a score is not a number"):
        list(Odd(found).rank(queries))
