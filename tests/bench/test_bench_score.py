from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.engines import open_pairwise, open_tree, padded_states
from benchmarks.options import ScoreOptions, TrainOptions
from benchmarks.peak import Cost
from benchmarks.records import Place, Result, Work, record, speed_ratio
from benchmarks.score import bench_score, synthetic
from benchmarks.timing import Timing, Variant, interleave
from benchmarks.train import (
    LOSSES,
    bench_train,
    gradient_difference,
    synthetic_cases,
)
from trsr.models.hf.model import TransformersModel
from trsr.models.token_tree.kv_cache import decoder_of
from trsr.progress import Silent

HERE = Place("cpu", "float32", 1e10)


@pytest.fixture
def result(tiny):
    options = ScoreOptions(prefix=40, rest=12, seed=3, repeats=3)
    load = synthetic(tiny, options, 2, 5)
    return bench_score(tiny, [load], options, Silent(), HERE)[0]


def test_records_are_whole_and_the_reference_is_one(result):
    pairwise, tree = (one for one in result.records if "openvino" not in one.variant)
    for one in (pairwise, tree):
        assert one.bench == "score"
        assert one.prompts == 10
        assert one.tokens == 10 * 52
        assert one.distinct_tokens == 2 * (40 + 5 * 12)
        assert one.token_ratio == pytest.approx(2.6)
        assert one.tokens_per_second == pytest.approx(520 / one.seconds)
        assert one.spread >= 0
        assert one.peak_share > 0
        assert one.peak_memory_bytes > 10_000_000
    assert pairwise.variant == "40+5x12/pairwise"
    assert pairwise.ratio == 1.0
    assert tree.ratio == pytest.approx(pairwise.seconds / tree.seconds)
    assert tree.variant == "40+5x12/tree"


def test_padded_states_are_those_of_each_prompt_alone(tiny):
    draw = np.random.default_rng(0)
    sequences = [tuple(draw.integers(300, size=n).tolist()) for n in (9, 3, 14, 1, 7)]
    with torch.no_grad():
        found = padded_states(tiny.network, sequences, 2)
        for row, tokens in enumerate(sequences):
            alone = decoder_of(tiny.network)(input_ids=torch.tensor([tokens])).last_hidden_state
            torch.testing.assert_close(found[row], alone[0, -1], rtol=0, atol=1e-5)


def test_tree_scores_equal_pairwise_ones(tiny):
    load = synthetic(tiny, ScoreOptions(prefix=45, rest=20), 3, 6)
    pairwise = open_pairwise(tiny)(load.calls, load.answers)
    tree = open_tree(tiny)(load.calls, load.answers)
    assert pairwise.shape == (18, 2)
    np.testing.assert_allclose(tree, pairwise, rtol=0, atol=1e-4)
    # they tell prompts apart, or equality would say nothing
    assert np.std(pairwise[:, 0] - pairwise[:, 1]) > 0.01


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


def brute(length, windows, width, linear):
    seen = sum(min(at + 1, window or at + 1) for window in windows for at in range(length))
    return 2 * linear * length + 4 * width * seen


def test_the_cost_of_one_prompt_is_counted_by_hand(tiny):
    cost = Cost.of(tiny.network)
    # a layer: q 32→32, k and v 32→16, o 32→32, three of 32 and 64
    linear = 2 * (32 * 32 + 2 * 32 * 16 + 32 * 32 + 3 * 32 * 64)
    assert sum(inner * outer for inner, outer in cost.shapes) == linear
    assert cost.forward([(1,) * 10]) == brute(10, (0, 0), 32, linear)
    assert cost.forward([(1,) * 10], head_rows=2) == brute(10, (0, 0), 32, linear) + 2 * 32 * 2


def test_what_prompts_share_costs_once_and_windows_bound_what_is_seen():
    cost = Cost(((8, 8),), 0, 4, (0, 3), 8, 100)
    one, two = (1, 2, 3, 4, 5, 6), (1, 2, 3, 9, 9, 9)
    whole, start = brute(6, (0, 3), 4, 64), brute(3, (0, 3), 4, 64)
    assert cost.forward([one]) == whole
    assert cost.forward([one, two, one]) == 2 * whole - start


def test_training_lora_costs_the_frozen_layers_twice():
    plain = Cost(((8, 8),), 0, 4, (), 8, 100)
    adapted = Cost(((8, 8),), 10, 4, (), 8, 100)
    assert plain.training([(1,) * 5]) == 2 * plain.forward([(1,) * 5])
    assert adapted.training([(1,) * 5]) - plain.training([(1,) * 5]) == 6 * 10 * 5


def test_variants_take_turns_after_one_warm_up_each():
    ran = []
    variants = [
        Variant("a", lambda: ran.append("a")),
        Variant(
            "b",
            lambda: ran.append("b") or 7,
            lambda: ran.append("ready"),
            lambda: ran.append("warm"),
        ),
    ]
    timings = interleave(variants, 2, "cpu", Silent())
    assert ran == ["a", "ready", "warm", "a", "ready", "b", "a", "ready", "b"]
    assert len(timings["a"].seconds) == 2
    assert timings["b"].result == 7
    with pytest.raises(ValueError, match="at least one repeat"):
        interleave(variants, 0, "cpu", Silent())


def test_a_record_is_made_of_median_spread_and_work():
    timing, reference = Timing([2.0, 1.0, 4.0], 5), Timing([4.0])
    work = Work(8, 8, 600, 200, 1e9)
    made = record(
        "x",
        "v",
        Place("cpu", "float32", 1e9),
        timing,
        work,
        speed_ratio(timing, work, reference, work),
    )
    assert (made.seconds, made.spread, made.ratio, made.peak_share) == (2.0, 1.5, 2.0, 0.5)
    assert (made.token_ratio, made.tokens_per_second) == (3.0, 300.0)
    half = Work(4, 4)
    assert speed_ratio(timing, half, reference, work) == 1.0
