from __future__ import annotations

import pytest
import torch

from trsr.bench.records import Place
from trsr.bench.run import LORA
from trsr.bench.train import (
    bench_train,
    gradient_difference,
    micro_batches,
    pairwise_listwise_loss,
    synthetic_cases,
)
from trsr.progress import Silent
from trsr.train.losses import listwise_loss


def test_all_ways_give_the_same_gradient_and_whole_records(tiny):
    result = bench_train(
        tiny,
        settings=LORA,
        cases=2,
        prefix=40,
        negatives=3,
        rest=10,
        repeats=2,
        progress=Silent(),
        place=Place("cpu", "float32", 1e10),
    )
    pairwise, tree, masked, upper, kept = result.records
    assert (pairwise.variant, tree.variant) == ("40+4x10/pairwise", "40+4x10/tree")
    assert masked.variant == "40+4x10/tree_mask"
    assert (upper.variant, kept.variant) == ("40+4x10/tree/upper-1", "40+4x10/tree/upper-1-kept")
    assert upper.peak_share is None  # the operations of some layers are not counted
    assert (pairwise.ratio, tree.ratio) == (1.0, pytest.approx(pairwise.seconds / tree.seconds))
    assert pairwise.prompts == 8
    assert pairwise.tokens == 8 * 50
    assert tree.distinct_tokens == 2 * (40 + 4 * 10)
    assert tree.peak_share > 0
    assert [note.split(":")[0] for note in result.notes] == ["tree", "tree_mask", "upper-1"]
    assert all(float(note.rsplit(" ", 1)[1]) < 1e-5 for note in result.notes)
    assert all(one.requires_grad for name, one in tiny.network.named_parameters() if "lora" in name)
    assert not torch.are_deterministic_algorithms_enabled()


def test_the_pairwise_loss_is_trainings_own(tiny):
    cases = synthetic_cases(300, cases=3, prefix=40, candidates=4, rest=9)
    with torch.no_grad():
        own = pairwise_listwise_loss(tiny.network, cases, 4096)
        theirs = listwise_loss(tiny.network, cases, 4096)
        tight = pairwise_listwise_loss(tiny.network, cases, 60)
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
