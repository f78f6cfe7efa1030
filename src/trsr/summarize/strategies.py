"""Summarizing strategies: generators that yield prompts and hold no model.

A flow yields the prompts it needs next, is sent their texts, and returns the summary. With the
response cache, a longer history of the same user finds its earlier steps already answered.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import ClassVar, Protocol, runtime_checkable

from trsr.types import Block, Item, Prompt

Flow = Generator[Sequence[Prompt], Sequence[str], str]
"""Yields prompts that can be answered side by side, is sent their texts, returns the summary."""


class Writer(Protocol):
    """What a strategy needs of a prompt writer."""

    def write(self, items: Sequence[Item]) -> Prompt:
        """Asks for the summary of one block of items."""

    def revise(self, summary: str, items: Sequence[Item]) -> Prompt:
        """Asks for a summary brought up to date with a later block of items."""

    def merge(self, summaries: Sequence[str]) -> Prompt:
        """Asks for one summary of several, given in time order."""

    def keywords(self, items: Sequence[Item], most: int) -> str:
        """The words by which these items stand out of the catalog."""

    def lines(self, items: Sequence[Item]) -> list[str]:
        """The items as the ranking prompt shows them, each on a line."""


class Options(Protocol):
    """The settings that a strategy reads."""

    @property
    def fan_in(self) -> int:
        """How many summaries are merged at once."""


class Strategy(Protocol):
    """Decides which prompts summarize one user; made once, with a writer and options.

    A class with `uses_llm = False` promises that its flows yield no prompt.
    """

    def flow(self, blocks: Sequence[Block]) -> Flow:
        """The prompts for a user with these blocks: at least one, oldest first."""


@runtime_checkable
class Resumable(Strategy, Protocol):
    """A strategy whose summary is all that it needs of the blocks before."""

    def resume(self, summary: str, blocks: Sequence[Block]) -> Flow:
        """The prompts that bring a summary up to date with the blocks behind it, oldest first."""


class Hierarchical:
    """Each block alone, then merges of neighbours, level by level (METHOD: "CNN-like").

    A summary alone in its group goes up unchanged; a block without a text is left out. A `fan_in`
    of at least the number of blocks gives one merge, as in the authors' public code.
    """

    def __init__(self, writer: Writer, options: Options) -> None:
        self._writer = writer
        self._fan_in = options.fan_in

    def flow(self, blocks: Sequence[Block]) -> Flow:
        """All blocks at once, then one level of merges after the other."""
        texts = yield [self._writer.write(block.items) for block in blocks]
        level = [text for text in texts if text]
        while len(level) > 1:
            groups = [level[at : at + self._fan_in] for at in range(0, len(level), self._fan_in)]
            merged = yield [self._writer.merge(group) for group in groups if len(group) > 1]
            answers = iter(merged)
            # an empty merge: the latest of its parts is still true
            level = [
                (next(answers) or group[-1]) if len(group) > 1 else group[0] for group in groups
            ]
        return level[0] if level else ""


class Recurrent:
    """The summary is the state: each block revises it (METHOD: "RNN-like")."""

    def __init__(self, writer: Writer, options: Options) -> None:
        self._writer = writer

    def flow(self, blocks: Sequence[Block]) -> Flow:
        """One prompt a block."""
        return self.resume("", blocks)

    def resume(self, summary: str, blocks: Sequence[Block]) -> Flow:
        """One prompt a block; an empty revision leaves the summary as it was."""
        for block in blocks:
            items = block.items
            prompt = self._writer.revise(summary, items) if summary else self._writer.write(items)
            (text,) = yield [prompt]
            summary = text or summary
        return summary


KEYWORDS = 16
"""The most in a summary: about as many tokens as a written one has."""


class KeywordSummary:
    """The keywords of the history, without a model.

    It is the control for what a language model adds to counting words, and better than a model
    that is too small.
    """

    uses_llm: ClassVar[bool] = False

    def __init__(self, writer: Writer, options: Options) -> None:
        self._writer = writer

    def flow(self, blocks: Sequence[Block]) -> Flow:
        """No prompt."""
        yield from ()
        return self._writer.keywords([item for block in blocks for item in block.items], KEYWORDS)


BLOCKS_APART = "\n\n"
"""Between the blocks of what a soft summary has read; in a block each item has a line."""


class SoftSummary:
    """A few vectors, which the ranker's own encoder makes by reading block after block.

    The encoder is trained with the ranker, after this stage. So what is written here is what it
    will read: the items' lines, block by block. The state behind a block follows from that text
    alone, so the text is its name too (see `trsr.models.hf.soft_summary`).
    """

    uses_llm: ClassVar[bool] = False

    def __init__(self, writer: Writer, options: Options) -> None:
        self._writer = writer

    def flow(self, blocks: Sequence[Block]) -> Flow:
        """No prompt."""
        return self.resume("", blocks)

    def resume(self, summary: str, blocks: Sequence[Block]) -> Flow:
        """No prompt; the blocks come behind those that were read."""
        yield from ()
        read = ["\n".join(self._writer.lines(block.items)) for block in blocks]
        return BLOCKS_APART.join([summary, *read] if summary else read)


class NoSummary:
    """No summary: the model ranks from recent items alone."""

    uses_llm: ClassVar[bool] = False

    def __init__(self, writer: Writer, options: Options) -> None:
        """Reads neither."""

    def flow(self, blocks: Sequence[Block]) -> Flow:
        """No prompt."""
        yield from ()
        return ""
