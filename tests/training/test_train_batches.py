"""Micro-batches: what cases share is counted and computed once, and teaches the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_network

from trsr.models.token_tree.tokens import distinct_tokens
from trsr.training.adapter import Adapter
from trsr.training.batches import batches
from trsr.training.encode import EncodedCase
from trsr.training.losses import LOSSES
from trsr.training.settings import TrainSettings

ALIKE = 10, 20, 30, 6  # tokens of the instruction, the summary, an item, a candidate's section


def by_hand(items: int, user: int = 0) -> EncodedCase:
    """One target after so many items: two candidates, an answer of one token each."""
    instruction, summary, item, candidate = ALIKE
    begin = 20 + 130 * user
    start = (*range(10, 10 + instruction), *range(begin, begin + summary + item * items))
    prompts = [start + (280 + place,) * candidate for place in (2 * items, 2 * items + 1)]
    return EncodedCase.of(f"{user}/{items}", prompts, [((7,), (8,))] * 2, [True, False])


def test_what_cases_begin_alike_is_counted_once() -> None:
    cases = [by_hand(items) for items in range(3)]
    # two sequences a target: 10 + 20 + 30 an item before it + 6 + 1
    assert sum(case.tokens for case in cases) == 2 * (37 + 67 + 97)
    assert [case.distinct_tokens for case in cases] == [30 + 14, 60 + 14, 90 + 14]
    (batch,) = batches(cases, 10_000, alone=False)
    assert batch.tokens == 90 + 3 * 14
    (apart,) = batches(cases, 10_000, alone=True)
    assert apart.tokens == 402
    # another user shares the instruction's ten tokens only
    (both,) = batches([*cases, by_hand(1, user=1)], 10_000, alone=False)
    assert both.tokens == 132 + 74 - 10


texts = st.lists(st.integers(0, 2), min_size=1, max_size=6).map(tuple)


@given(
    st.lists(st.lists(texts, min_size=1, max_size=3), min_size=1, max_size=8),
    st.integers(1, 40),
    st.booleans(),
)
def test_batches_keep_the_order_fit_and_count_right(
    drawn: list[Any], most: int, alone: bool
) -> None:
    cases = [
        EncodedCase.of(str(n), prompts, [((3,), (4,))] * len(prompts), [True] * len(prompts))
        for n, prompts in enumerate(drawn)
    ]
    found = list(batches(cases, most, alone=alone))
    assert [case for batch in found for case in batch.cases] == cases
    for batch in found:
        every = [text for case in batch.cases for text in case.texts]
        assert batch.tokens == (sum(map(len, every)) if alone else distinct_tokens(every))
        assert batch.tokens <= most or len(batch.cases) == 1


@pytest.mark.parametrize("loss", ["answer", "listwise"])
@pytest.mark.parametrize("batch_tokens", [4096, 256])
def test_gradients_of_cases_together_are_those_of_the_cases_one_by_one(
    loss: str, batch_tokens: int
) -> None:
    network = tiny_network()
    adapter = Adapter(network, TrainSettings(dropout=0.0), "tiny", 0)
    parameters = list(adapter.parameters.values())
    torch.manual_seed(1)
    for name, parameter in adapter.parameters.items():
        if "lora_B" in name:  # zero at first, which would hide half of the gradient
            torch.nn.init.normal_(parameter, std=0.1)
    cases = [by_hand(items) for items in range(3)]
    together = LOSSES[loss](network, cases, batch_tokens)
    found = torch.autograd.grad(together.sum(), parameters)
    alone = [LOSSES[loss](network, [case], 4096).sum() for case in cases]
    parts = [torch.autograd.grad(part, parameters) for part in alone]
    for gradient, *each in zip(found, *parts, strict=True):
        expected = torch.stack(each).sum(0)
        assert float((gradient - expected).norm() / expected.norm()) < 1e-5
