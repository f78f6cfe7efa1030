"""Model passes that requests share: equal scores, bounds, and requests that stop costing."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trsr.errors import ModelError, PromptError
from trsr.models.scripted import ScriptedModel
from trsr.serve.batching import (
    BatchedModel,
    OverloadedError,
    Ticket,
    TooLateError,
    _parts,
    on_behalf_of,
)
from trsr.types import Message, Prompt

ANSWERS = ("Yes", "No")


def prompts(user: int, count: int = 3) -> list[Prompt]:
    text = "taste: {}\nnext: item {} of {} more {}"
    return [
        Prompt((Message("user", text.format("word " * user, place, user, "x " * (place % 3))),))
        for place in range(count)
    ]


class Slow(ScriptedModel):
    """Counts its calls, and waits in each until it is let go on."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[int] = []
        self.go_on = threading.Event()

    def score(self, prompts, answers):
        self.calls.append(len(prompts))
        assert self.go_on.wait(20)
        return super().score(prompts, answers)


def until(what, seconds: float = 10) -> None:
    ends = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < ends
        time.sleep(0.002)


def test_requests_that_wait_share_a_pass_and_each_gets_its_own_scores() -> None:
    slow = Slow()
    model = BatchedModel(slow, 10_000, 99)
    with ThreadPoolExecutor(9) as pool:
        first = pool.submit(model.score, prompts(0), ANSWERS)
        until(lambda: slow.calls)
        others = [pool.submit(model.score, prompts(user), ANSWERS) for user in range(1, 9)]
        until(lambda: model.waiting == 8)
        slow.go_on.set()
        found = [one.result(20) for one in (first, *others)]
    model.close()
    assert slow.calls == [3, 24]
    assert (model.counts.passes, model.counts.shares, model.counts.prompts) == (2, 9, 27)
    for user, scores in enumerate(found):
        assert (scores == ScriptedModel().score(prompts(user), ANSWERS)).all()


def test_a_pass_holds_a_budget_of_tokens_and_a_long_request_goes_in_parts() -> None:
    slow = Slow()
    slow.go_on.set()
    model = BatchedModel(slow, 60, 99)
    found = model.score(prompts(5, 40), ANSWERS)
    model.close()
    assert (found == ScriptedModel().score(prompts(5, 40), ANSWERS)).all()
    assert len(slow.calls) > 2
    assert sum(slow.calls) == 40


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(1, 120))
def test_parts_hold_each_prompt_once_within_the_budget(sizes: list[int], budget: int) -> None:
    parts = list(_parts(sizes, budget))
    assert [place for start, end, _ in parts for place in range(start, end)] == [*range(len(sizes))]
    for start, end, tokens in parts:
        assert tokens == sum(sizes[start:end])
        assert tokens <= budget or end == start + 1


def test_more_than_the_queue_holds_are_sent_away_with_a_time_to_come_again() -> None:
    slow = Slow()
    model = BatchedModel(slow, 10_000, 2)
    with ThreadPoolExecutor(9) as pool:
        first = pool.submit(model.score, prompts(0), ANSWERS)
        until(lambda: slow.calls)
        others = [pool.submit(model.score, prompts(user), ANSWERS) for user in (1, 2)]
        until(lambda: model.waiting == 2)
        with pytest.raises(OverloadedError) as refused:
            model.score(prompts(3), ANSWERS)
        assert refused.value.retry_after >= 1
        slow.go_on.set()
        assert all(len(one.result(20)) == 3 for one in (first, *others))
    model.close()


def test_who_gave_up_or_is_too_late_costs_nothing() -> None:
    slow = Slow()
    model = BatchedModel(slow, 10_000, 99)

    def ask(ticket: Ticket) -> None:
        with on_behalf_of(ticket):
            model.score(prompts(1), ANSWERS)

    gone = Ticket()
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(model.score, prompts(0), ANSWERS)
        until(lambda: slow.calls)
        given_up = pool.submit(ask, gone)
        until(lambda: model.waiting == 1)
        began = time.perf_counter()
        late = pool.submit(ask, Ticket(ends=began + 0.1))
        with pytest.raises(TooLateError):
            late.result(20)
        assert time.perf_counter() - began < 5  # it does not wait for the pass under way
        gone.cancelled.set()
        slow.go_on.set()
        first.result(20)
        with pytest.raises(TooLateError):
            given_up.result(20)
    model.close()
    assert slow.calls == [3]
    assert model.counts.late == 2


def test_one_request_that_does_not_fit_fails_alone() -> None:
    slow = Slow()
    slow.context_tokens = 60
    model = BatchedModel(slow, 10_000, 99)
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(model.score, prompts(0), ANSWERS)
        until(lambda: slow.calls)
        long, short = (pool.submit(model.score, prompts(user), ANSWERS) for user in (99, 2))
        until(lambda: model.waiting == 2)
        slow.go_on.set()
        first.result(20)
        with pytest.raises(PromptError, match="exceeds the model's context"):
            long.result(20)
        assert (short.result(20) == ScriptedModel().score(prompts(2), ANSWERS)).all()
    model.close()


def test_a_model_that_breaks_is_a_clear_error_and_the_next_request_is_answered() -> None:
    class Broken(ScriptedModel):
        broken = True

        def score(self, prompts, answers):
            if self.broken:
                raise RuntimeError("out of memory")
            return super().score(prompts, answers)

    inner = Broken()
    model = BatchedModel(inner, 100, 9)
    with pytest.raises(ModelError, match=r"scripted failed \(RuntimeError: out of memory"):
        model.score(prompts(1), ANSWERS)
    inner.broken = False
    assert np.isfinite(model.score(prompts(1), ANSWERS)).all()
    model.close()
    with pytest.raises(ModelError, match="closing"):
        model.score(prompts(1), ANSWERS)
