"""Checks of summarizing strategies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from trsr.summarize.strategies import Flow, Options, Strategy, Writer
from trsr.testing.models import require
from trsr.types import Block, Interaction, Item, Message, Prompt

_MOST_ROUNDS = 1000


@dataclass(frozen=True, slots=True)
class _Settings:
    fan_in: int


class PlainWriter:
    """A `Writer` whose prompts hold item ids and summaries as they are, for tests of strategies."""

    def write(self, items: Sequence[Item]) -> Prompt:
        """`write` and the ids."""
        return self._say("write", *(item.id for item in items))

    def revise(self, summary: str, items: Sequence[Item]) -> Prompt:
        """`revise`, the summary in brackets, and the ids."""
        return self._say("revise", f"[{summary}]", *(item.id for item in items))

    def merge(self, summaries: Sequence[str]) -> Prompt:
        """`merge` and the summaries in brackets."""
        return self._say("merge", *(f"[{summary}]" for summary in summaries))

    def keywords(self, items: Sequence[Item], most: int) -> str:
        """The ids of the items."""
        return " ".join(item.id for item in items)

    def lines(self, items: Sequence[Item]) -> list[str]:
        """The ids of the items, each on a line."""
        return [item.id for item in items]

    def _say(self, *words: str) -> Prompt:
        return Prompt((Message("user", " ".join(words)),))


def drive(flow: Flow, answer: Callable[[Prompt], str]) -> tuple[str, list[list[Prompt]]]:
    """Runs one flow to its end with a function for a model.

    Returns:
        The summary, and the prompts of each round.

    Raises:
        AssertionError: If the flow does not end.
    """
    rounds: list[list[Prompt]] = []
    try:
        prompts = next(flow)
        while len(rounds) < _MOST_ROUNDS:
            rounds.append(list(prompts))
            prompts = flow.send([answer(prompt) for prompt in prompts])
    except StopIteration as end:
        return str(end.value), rounds
    raise AssertionError(f"the flow has not ended after {_MOST_ROUNDS} rounds")


def check_strategy(
    make: Callable[[Writer, Options], Strategy],
    *,
    most_blocks: int = 12,
    reads: bool = True,
    asks: bool = True,
) -> None:
    """Checks that a strategy ends, and that its summary has read every block, in time order.

    The fake model answers with its prompt, so a summary that has read a block holds its
    items' ids.

    Args:
        make: Makes the strategy of a writer and options, as the table of strategies does.
        most_blocks: Histories of one block to so many are tried.
        reads: Whether it reads histories at all.
        asks: Whether it uses a model.

    Raises:
        AssertionError: If it breaks the contract; the message says how.
    """
    for fan_in in (2, 3, 5):
        strategy = make(PlainWriter(), _Settings(fan_in))
        for count in range(1, most_blocks + 1):
            _check_history(strategy, _blocks(count), reads, asks)


def _check_history(strategy: Strategy, blocks: Sequence[Block], reads: bool, asks: bool) -> None:
    count = len(blocks)
    ids = [item.id for block in blocks for item in block.items]
    text, rounds = drive(strategy.flow(blocks), lambda prompt: prompt.messages[-1].content)
    if not reads:
        require((text, rounds) == ("", []), "it uses a model though it reads nothing")
        return
    at = [text.find(id_) for id_ in ids]
    require(min(at) >= 0, f"of {count} blocks, the summary has not read {ids[at.index(min(at))]}")
    require(at == sorted(at), f"of {count} blocks, the summary has read them out of time order")
    again, _ = drive(strategy.flow(blocks), lambda prompt: prompt.messages[-1].content)
    require(again == text, "two flows of one strategy disturb each other")
    if not asks:
        require(not rounds, "it uses a model though it needs none")
        return
    silent, _ = drive(strategy.flow(blocks), lambda prompt: "")
    require(silent == "", "it makes a summary though the model wrote nothing")


def _blocks(count: int) -> list[Block]:
    """Blocks of two items, of which no id is part of another."""
    return [
        Block(tuple(Interaction(Item(f"<{2 * n + i}>"), float(n)) for i in range(2)), 2 * n)
        for n in range(count)
    ]
