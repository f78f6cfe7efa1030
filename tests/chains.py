"""Chains of prompts that each wait for the answer to the one before, for tests of models."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence

from trsr.models.base import LanguageModel, Sampling
from trsr.types import Prompt


def answered_in_turn(
    model: LanguageModel,
    first: Sequence[str],
    write: Callable[[str], Prompt],
    steps: int,
    sampling: Sampling | None = None,
) -> list[str]:
    """What each chain comes to, the answers put behind one another, as recurrent summaries do.

    Args:
        model: Is asked through the pull feed, which gives `None` while all chains wait.
        first: What each chain begins with.
        write: Makes the prompt of what a chain has come to.
        steps: Prompts of a chain.
        sampling: How the model answers.
    """
    said, left = list(first), [steps] * len(first)
    ready = deque(range(len(first)))
    asked: list[int] = []

    def feed() -> Iterator[Prompt | None]:
        while any(left):
            if ready:
                asked.append(ready.popleft())
                yield write(said[asked[-1]])
            else:
                yield None

    for place, text in model.generate(feed(), sampling or Sampling()):
        chain = asked[place]
        said[chain] += text
        left[chain] -= 1
        if left[chain]:
            ready.append(chain)
    assert len(asked) == steps * len(first)
    return said
