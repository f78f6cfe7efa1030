from __future__ import annotations

import pytest
import torch

from benchmarks.peak import Cost, matmul_peak
from benchmarks.records import Place, Work, record, speed_ratio
from benchmarks.timing import MemoryWatch, Timing, Variant, interleave
from trsr.progress import Silent


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


def test_the_peak_is_the_best_of_the_shapes():
    alone = matmul_peak(torch.float32, "cpu", square=8, seconds=0.01)
    both = matmul_peak(torch.float32, "cpu", [(256, 256)], square=8, rows=256, seconds=0.01)
    assert 0 < alone < both


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


def test_memory_of_the_present_run_is_told_not_that_of_an_earlier_one():
    watch = MemoryWatch("cpu")
    before = watch.peak()
    block = torch.ones(60_000_000)
    assert watch.peak() - before > 150_000_000
    del block
    assert MemoryWatch("cpu").peak() < watch.peak() + 1
