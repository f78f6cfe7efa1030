"""Summarizing strategies: what to ask and in which order, as generators that hold no model.

A flow yields the prompts it needs next and is sent their texts; it returns the summary. With the
output store, a longer history of the same user finds every earlier step already answered.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Protocol

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

    def terms(self, items: Sequence[Item], most: int) -> str:
        """The words by which these items stand out of the catalog."""


class Options(Protocol):
    """What a strategy is told of the settings."""

    @property
    def fan_in(self) -> int:
        """How many summaries are merged at once."""

    @property
    def terms(self) -> int:
        """How many words are told where no model is asked."""


class Strategy(Protocol):
    """Decides what is asked about one user; made once for all users, with a writer and options."""

    def flow(self, blocks: Sequence[Block]) -> Flow:
        """The questions about a user with these blocks: at least one, oldest first."""


class Hierarchical:
    """Each block alone, then merges of neighbours, level by level (METHOD: "CNN-like").

    A summary that is alone in its group goes up as it is; so does the only one of a history of
    one block. A block of which the model wrote nothing is left out.

    Args:
        writer: Writes the prompts.
        options: `fan_in` summaries are merged at once; at least the number of blocks is one merge
            of all, as in the authors' public code.
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
            # Where a merge came back empty, the latest of its parts still says something true.
            level = [
                (next(answers) or group[-1]) if len(group) > 1 else group[0] for group in groups
            ]
        return level[0] if level else ""


class Recurrent:
    """The summary is the state: each block revises it (METHOD: "RNN-like").

    Args:
        writer: Writes the prompts.
        options: None is used.
    """

    def __init__(self, writer: Writer, options: Options) -> None:
        self._writer = writer

    def flow(self, blocks: Sequence[Block]) -> Flow:
        """One question a block; a revision that came back empty leaves the summary as it was."""
        summary = ""
        for block in blocks:
            ask = (
                self._writer.revise(summary, block.items)
                if summary
                else self._writer.write(block.items)
            )
            (text,) = yield [ask]
            summary = text or summary
        return summary


class KeywordSummary:
    """Asks nothing, and says the words by which the history stands out of the catalog.

    The control for what a language model adds to counting words, and an upper hand where it is
    too small to read.

    Args:
        writer: Counts the words of what its summary prompts would tell.
        options: So many `terms` are told.
    """

    def __init__(self, writer: Writer, options: Options) -> None:
        self._writer = writer
        self._most = options.terms

    def flow(self, blocks: Sequence[Block]) -> Flow:
        """No question."""
        yield from ()
        return self._writer.terms([item for block in blocks for item in block.items], self._most)


class NoSummary:
    """Asks nothing and says nothing: the model ranks from recent items alone.

    Args:
        writer: Is not used.
        options: None is used.
    """

    def __init__(self, writer: Writer, options: Options) -> None:
        """Keeps nothing."""

    def flow(self, blocks: Sequence[Block]) -> Flow:
        """No question."""
        yield from ()
        return ""
