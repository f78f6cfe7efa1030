"""A user's open block in one step: what is shared, what it costs, and that it teaches the same."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from stopping import StopHereError, Stopping
from tiny import tiny_network
from train_toy import metrics

from trsr.llm import ModelSettings, open_model
from trsr.llm.tokens import distinct_tokens
from trsr.progress import Silent
from trsr.prompts import PromptSettings, PromptWriter
from trsr.train import TrainResult, train
from trsr.train.adapter import Adapter
from trsr.train.batches import batches
from trsr.train.encode import EncodedCase, encode_cases, groups_of
from trsr.train.losses import LOSSES
from trsr.train.schedule import Schedule
from trsr.train.settings import TrainSettings
from trsr.types import Case, Interaction, Item, Query, Summary, UserHistory

BLOCK = 3
ALIKE = 10, 20, 30, 6  # tokens of the instruction, the summary, an item, a candidate's section


def by_hand(items: int, group: int = 0) -> EncodedCase:
    """One target after so many items: two candidates, an answer of one token each."""
    instruction, summary, item, candidate = ALIKE
    user = 1000 * (group + 1)
    start = (*range(instruction), *range(user, user + summary + item * items))
    prompts = [start + (5000 + place,) * candidate for place in (2 * items, 2 * items + 1)]
    return EncodedCase.of(f"{group}/{items}", prompts, [((7,), (8,))] * 2, [True, False], group)


def test_the_token_ratio_grows_with_the_targets_of_a_block_as_counted_by_hand() -> None:
    cases = [by_hand(items) for items in range(3)]
    # two sequences a target: 10 + 20 + 30 an item before it + 6 + 1
    assert sum(case.tokens for case in cases) == 2 * (37 + 67 + 97)
    assert [case.distinct_tokens for case in cases] == [30 + 14, 60 + 14, 90 + 14]
    (batch,) = batches(cases, 10_000, alone=False)
    assert batch.tokens == 90 + 3 * 14
    (apart,) = batches(cases, 10_000, alone=True)
    assert apart.tokens == 402
    one, two, three = (next(batches(cases[:n], 10_000, alone=False)) for n in (1, 2, 3))
    ratios = [
        sum(case.tokens for case in batch.cases) / batch.tokens for batch in (one, two, three)
    ]
    assert ratios == pytest.approx([74 / 44, 208 / 88, 402 / 132])
    # another user shares the instruction's ten tokens only
    (both,) = batches([*cases, by_hand(1, group=1)], 10_000, alone=False)
    assert both.tokens == 132 + 74 - 10


texts = st.lists(st.integers(0, 2), min_size=1, max_size=6).map(tuple)
drawn_cases = st.lists(
    st.tuples(st.lists(texts, min_size=1, max_size=3), st.integers(0, 2)), min_size=1, max_size=8
)


@given(drawn_cases, st.integers(1, 40), st.booleans())
def test_batches_keep_the_order_fit_and_count_right(
    drawn: list[Any], most: int, alone: bool
) -> None:
    cases = [
        EncodedCase.of(str(n), prompts, [((3,), (4,))] * len(prompts), [True] * len(prompts), group)
        for n, (prompts, group) in enumerate(sorted(drawn, key=lambda pair: pair[1]))
    ]
    found = list(batches(cases, most, alone=alone))
    assert [case for batch in found for case in batch.cases] == cases
    for batch in found:
        every = [text for case in batch.cases for text in case.texts]
        assert batch.tokens == (sum(map(len, every)) if alone else distinct_tokens(every))
        assert batch.tokens <= most or len(batch.cases) == 1
    for _, members in itertools.groupby(cases, key=lambda case: case.group):
        group = list(members)
        (*_, whole) = batches(group, 10_000, alone=alone)
        parts = [batch for batch in found if any(case in batch.cases for case in group)]
        assert len(parts) == 1 or whole.tokens > most


def test_large_groups_are_parted_evenly_and_small_ones_never() -> None:
    sizes = [1, 5, 4, 9]
    cases = [by_hand(0, group) for group, size in enumerate(sizes) for _ in range(size)]
    assert [len(part) for part in groups_of(cases, 4)] == [1, 3, 2, 4, 3, 3, 3]
    assert [case for part in groups_of(cases, 4) for case in part] == list(range(19))


@given(
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=20),
    per_step=st.integers(1, 8),
    epochs=st.integers(1, 3),
    seed=st.integers(0, 5),
)
def test_every_epoch_takes_every_group_once_and_whole(
    sizes: list[int], per_step: int, epochs: int, seed: int
) -> None:
    cases = [by_hand(0, group) for group, size in enumerate(sizes) for _ in range(size)]
    groups = groups_of(cases, per_step)
    chosen = TrainSettings(epochs=epochs, cases_per_step=per_step)
    schedule = Schedule(len(cases), chosen, seed, groups)
    taken: dict[int, list[int]] = {}
    for step in range(1, schedule.steps + 1):
        part = schedule.cases(step)
        assert 1 <= len(part) <= per_step
        taken.setdefault(schedule.epoch(step), []).extend(part)
        for group in groups:
            inside = [case for case in part if case in group]
            assert inside in ([], group)
            if inside:
                at = part.index(group[0])
                assert part[at : at + len(group)] == group
    assert list(taken) == list(range(epochs))
    assert all(sorted(part) == list(range(len(cases))) for part in taken.values())
    backward = Schedule(len(cases), chosen, seed, groups)
    steps = range(schedule.steps, 0, -1)
    assert {n: backward.cases(n) for n in steps} == {n: schedule.cases(n) for n in steps}


def test_groups_of_one_are_the_schedule_without_groups() -> None:
    chosen = TrainSettings(epochs=2, cases_per_step=3)
    plain, single = Schedule(10, chosen, 1), Schedule(10, chosen, 1, [[n] for n in range(10)])
    assert plain.steps == single.steps == 8
    assert all(plain.cases(n) == single.cases(n) for n in range(1, 9))


def chain_case(user: int, at: int) -> Case:
    """A target of a user, who has taken items of a kind; the summary tells of the full blocks."""
    kind = ("steel bolt", "quiet film")[user % 2]
    taken = [Item(f"{user}-{n}", (("title", f"{kind} {user} {n}"),)) for n in range(at + 1)]
    other = Item(f"x{user}-{at}", (("title", f"loud lamp {at}"),))
    past = tuple(Interaction(item, float(n)) for n, item in enumerate(taken[:at]))
    covers = at // BLOCK * BLOCK
    summary = Summary(f"u{user}", f"The user likes {kind} {covers}.", covers) if covers else None
    candidates = (taken[at], other) if (user + at) % 2 else (other, taken[at])
    history = UserHistory(f"u{user}", past)
    return Case(
        Query(f"train/u{user}/{at}", history, candidates, summary), frozenset([taken[at].id])
    )


CASES = [chain_case(user, at) for user in range(4) for at in range(3, 9)]


def chain_words(model: Any) -> PromptWriter:
    chosen = PromptSettings(domain="generic", layout="chain")
    return PromptWriter(chosen, model.count_tokens, model.context_tokens, 8)


def chain_train(model: Path, folder: Path, **more: Any) -> TrainResult:
    progress, validate = more.pop("progress", Silent()), more.pop("validate", None)
    quick = {"loss": "listwise", "learning_rate": 1e-2, "warmup_steps": 1, "cases_per_step": 4}
    told = {"group": "user", "epochs": 2, "checkpoint_steps": 1, "dropout": 0.3}
    return train(
        CASES,
        model=ModelSettings(name=str(model), dtype="float32", device="cpu"),
        words=chain_words,
        settings=TrainSettings(**{**quick, **told, **more}),
        seed=0,
        out=folder / "out",
        state=folder / "state",
        validate=validate,
        progress=progress,
    )


@pytest.fixture(scope="module")
def encoded(tiny_model: Path) -> list[EncodedCase]:
    model = open_model(ModelSettings(name=str(tiny_model), dtype="float32"))
    return encode_cases(CASES, chain_words(model), model, compared=True, grouped=True)


def test_an_open_block_is_a_group(encoded: list[EncodedCase]) -> None:
    found = [[encoded[place].id for place in group] for group in groups_of(encoded, 10)]
    assert found[:3] == [
        ["train/u0/3", "train/u0/4", "train/u0/5"],
        ["train/u0/6", "train/u0/7", "train/u0/8"],
        ["train/u1/3", "train/u1/4", "train/u1/5"],
    ]
    assert len(found) == 8


@pytest.mark.parametrize("loss", ["answer", "listwise"])
@pytest.mark.parametrize("batch_tokens", [4096, 256])
def test_gradients_of_the_grouped_tree_are_those_of_the_cases_one_by_one(
    loss: str, batch_tokens: int, encoded: list[EncodedCase]
) -> None:
    network = tiny_network()
    adapter = Adapter(network, TrainSettings(dropout=0.0), "tiny", 0)
    parameters = list(adapter.parameters.values())
    torch.manual_seed(1)
    for name, parameter in adapter.parameters.items():
        if "lora_B" in name:  # zero at first, which would hide half of the gradient
            torch.nn.init.normal_(parameter, std=0.1)
    block = encoded[:3]
    together = LOSSES[loss](network, block, batch_tokens)
    found = torch.autograd.grad(together.sum(), parameters)
    alone = [LOSSES[loss](network, [case], 4096).sum() for case in block]
    parts = [torch.autograd.grad(part, parameters) for part in alone]
    for gradient, *each in zip(found, *parts, strict=True):
        expected = torch.stack(each).sum(0)
        assert float((gradient - expected).norm() / expected.norm()) < 1e-5


def test_training_computes_what_a_block_shares_once(
    tiny_model: Path, tmp_path: Path, encoded: list[EncodedCase]
) -> None:
    grouped = chain_train(tiny_model, tmp_path / "user", epochs=1, cases_per_step=3)
    single = chain_train(tiny_model, tmp_path / "case", epochs=1, cases_per_step=3, group="case")
    blocks = [[encoded[place] for place in group] for group in groups_of(encoded, 3)]
    wanted = [distinct_tokens([text for case in block for text in case.texts]) for block in blocks]
    assert (grouped.steps, grouped.cases) == (8, 24)
    assert grouped.distinct_tokens == sum(wanted)
    assert grouped.tokens == single.tokens == sum(case.tokens for case in encoded)
    # cases of other users in the micro-batch share the instruction with it
    each = sum(case.distinct_tokens for case in encoded)
    assert grouped.distinct_tokens < 0.95 * single.distinct_tokens < 0.95 * each


def outcome(folder: Path) -> tuple[bytes, list[dict[str, Any]]]:
    rows = [json.loads(line) for line in (folder / "out/curves.jsonl").read_text().splitlines()]
    for row in rows:
        del row["seconds"]
    return (folder / "out/adapter_model.safetensors").read_bytes(), rows


def test_a_stopped_run_of_groups_ends_bit_for_bit_like_an_unbroken_one(
    tiny_model: Path, tmp_path: Path
) -> None:
    chosen = {"validate": lambda model: metrics(0.5), "validate_steps": 4}
    whole = chain_train(tiny_model, tmp_path / "whole", **chosen)
    assert whole.steps == 16  # three cases fill a step of at most four
    for stop in (1, 7, 8, 9, 15):
        folder = tmp_path / str(stop)
        with pytest.raises(StopHereError):
            chain_train(tiny_model, folder, progress=Stopping(stop), **chosen)
        chain_train(tiny_model, folder, **chosen)
        assert outcome(folder) == outcome(tmp_path / "whole")
