from __future__ import annotations

import pytest
import torch

from benchmarks.options import TrainOptions
from benchmarks.records import Place, Result
from benchmarks.train import (
    LOSSES,
    bench_train,
    gradient_difference,
    micro_batches,
    synthetic_cases,
)
from trsr.errors import ConfigError
from trsr.models.hf.model import TransformersModel
from trsr.progress import Silent

WAYS = ("pairwise", "tree", "tree/upper-1", "tree/upper-1-kept")


def benched(model: TransformersModel, loss: str) -> Result:
    return bench_train(
        model,
        TrainOptions(cases=2, prefix=40, negatives=3, rest=10, loss=loss, repeats=2),
        Silent(),
        Place("cpu", "float32", 1e10),
    )


def test_all_ways_give_the_same_gradient_and_whole_records(tiny):
    result = benched(tiny, "listwise")
    pairwise, tree, upper, kept = result.records
    assert (pairwise.variant, tree.variant) == ("40+4x10/pairwise", "40+4x10/tree")
    assert (upper.variant, kept.variant) == ("40+4x10/tree/upper-1", "40+4x10/tree/upper-1-kept")
    assert upper.peak_share is None  # the operations of some layers are not counted
    assert (pairwise.ratio, tree.ratio) == (1.0, pytest.approx(pairwise.seconds / tree.seconds))
    assert pairwise.prompts == 8
    assert pairwise.tokens == 8 * 50
    assert tree.distinct_tokens == 2 * (40 + 4 * 10)
    assert tree.peak_share > 0
    assert [note.split(":")[0] for note in result.notes] == ["tree", "upper-1"]
    assert all(float(note.rsplit(" ", 1)[1]) < 1e-5 for note in result.notes)
    assert all(one.requires_grad for name, one in tiny.network.named_parameters() if "lora" in name)
    assert not torch.are_deterministic_algorithms_enabled()


def test_the_loss_over_the_text_shares_and_gives_the_same_gradient(tiny):
    result = benched(tiny, "text")
    assert [one.variant for one in result.records] == [f"40+4x10/text/{way}" for way in WAYS]
    assert {one.peak_share for one in result.records} == {None}
    assert len(result.notes) == 2
    assert all(float(note.rsplit(" ", 1)[1]) < 1e-5 for note in result.notes)


def test_a_loss_without_a_bench_is_named_with_those_that_have_one(tiny):
    with pytest.raises(ConfigError, match="no loss 'answer'; it has listwise, text"):
        bench_train(tiny, TrainOptions(loss="answer"), Silent())


@pytest.mark.parametrize("name", LOSSES)
def test_the_pairwise_loss_is_trainings_own(tiny, name: str):
    cases = synthetic_cases(300, cases=3, prefix=40, candidates=4, rest=9)
    pairwise, shared = LOSSES[name]
    with torch.no_grad():
        own = pairwise(tiny.network, cases, 4096)
        theirs = shared(tiny.network, cases, 4096)
        tight = pairwise(tiny.network, cases, 60)
    torch.testing.assert_close(own, theirs, rtol=0, atol=1e-4)
    torch.testing.assert_close(own, tight, rtol=0, atol=1e-4)


def test_a_gradient_that_differs_is_seen():
    other = {"a": torch.tensor([3.0, 4.0]), "b": torch.tensor([1.0])}
    own = {"a": torch.tensor([3.0, 4.0]), "b": torch.tensor([1.5])}
    assert gradient_difference(own, other) == pytest.approx(0.5)
    assert gradient_difference(other, other) == 0


def test_micro_batches_stay_within_the_budget():
    cases = synthetic_cases(300, cases=5, prefix=10, candidates=2, rest=5)
    size = cases[0].tokens
    batches = list(micro_batches(cases, lambda case: case.tokens, 2 * size))
    assert [len(batch) for batch in batches] == [2, 2, 1]
    assert [case for batch in batches for case in batch] == cases
    assert len(list(micro_batches(cases, lambda case: case.tokens, 1))) == 5
