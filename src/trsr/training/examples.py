"""From a case to what is learned, in words: one example a candidate, grouped by case."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from trsr.types import Case, Example, Prompt, Query


class SizedCases(Protocol):
    """Cases that can be counted and gone through, such as `trsr.data.Cases` or a list."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Case]: ...


class RankingWriter(Protocol):
    """The part of `trsr.prompts.PromptWriter` that training needs."""

    @property
    def answers(self) -> tuple[str, str]:
        """The judge's two answers, yes first."""

    @property
    def shortened(self) -> int:
        """How many prompts were cut to fit."""

    def rank(self, query: Query) -> list[Prompt]:
        """One prompt a candidate, in the query's order."""


@dataclass(frozen=True, slots=True)
class CaseExamples:
    """What one case teaches.

    Attributes:
        id: The query's id.
        examples: For each candidate, in the query's order, the judge's prompt and the right answer.
        positive: Whether each candidate is relevant.
    """

    id: str
    examples: tuple[Example, ...]
    positive: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class Written:
    """A text that a model wrote, to be learned from.

    Attributes:
        query: The id of the query whose summary it is, or became part of.
        prompt: What it answers, its begun answer included.
        text: What followed.
        whole: Whether the model is to end there: a text that was cut off is no example of an end.
    """

    query: str
    prompt: Prompt
    text: str
    whole: bool = True


def examples_of(case: Case, writer: RankingWriter) -> CaseExamples:
    """Writes a case's examples, with the same prompts as ranking.

    Raises:
        PromptError: If a prompt does not fit; names the query.
    """
    yes, no = writer.answers
    positive = tuple(item.id in case.relevant for item in case.query.candidates)
    prompts = writer.rank(case.query)
    examples = tuple(
        Example(prompt, yes if taken else no)
        for prompt, taken in zip(prompts, positive, strict=True)
    )
    return CaseExamples(case.query.id, examples, positive)
