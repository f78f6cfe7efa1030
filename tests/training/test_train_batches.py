"""Micro-batches count shared prefixes once."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from trsr.models.token_tree.tokens import distinct_tokens
from trsr.training.encode import EncodedCase
from trsr.training.step import batches

ALIKE = 10, 20, 30, 6  # tokens of the instruction, the summary, an item, a candidate's section


def by_hand(items: int, user: int = 0) -> EncodedCase:
    """One target after so many items: two candidates, an answer of one token each."""
    instruction, summary, item, candidate = ALIKE
    begin = 20 + 130 * user
    prefix = (*range(10, 10 + instruction), *range(begin, begin + summary + item * items))
    prompts = [prefix + (280 + place,) * candidate for place in (2 * items, 2 * items + 1)]
    return EncodedCase.of(f"{user}/{items}", prompts, [((7,), (8,))] * 2, [True, False])


def test_shared_prefixes_count_once() -> None:
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
