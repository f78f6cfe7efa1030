"""Cases as tokens: a case's prompts with their answers; their shared prefix is held once."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from trsr.errors import DataError
from trsr.models.token_tree.tokens import Tokens, common, tree_stats
from trsr.types import Case, Prompt, Query


class SizedCases(Protocol):
    """Cases that can be counted and gone through, such as `trsr.data.Cases` or a list."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Case]: ...


class RankingWriter(Protocol):
    """The part of `trsr.prompts.PromptWriter` that training needs."""

    @property
    def answers(self) -> tuple[str, str]:
        """The two answers to the ranking prompt, yes first."""

    @property
    def shortened(self) -> int:
        """How many prompts were cut to fit."""

    def rank(self, query: Query) -> list[Prompt]:
        """One prompt a candidate, in the query's order."""


@dataclass(frozen=True, slots=True)
class TextExample:
    """A text that a model wrote, to be trained on.

    Attributes:
        query: The id of the query whose summary it is, or became part of.
        prompt: What it answers, its begun answer included.
        text: What followed.
        complete: Whether the model is to end there; a text that was cut off shows no end.
    """

    query: str
    prompt: Prompt
    text: str
    complete: bool = True


class Encoder(Protocol):
    """The part of a local model that turns words into tokens."""

    def encode_answers(
        self, prompt: Prompt, answers: Sequence[str]
    ) -> tuple[Sequence[int], Sequence[Sequence[int]]]:
        """The prompt's tokens, and each answer's tokens after them."""


@dataclass(frozen=True, slots=True)
class EncodedCase:
    """A case in tokens.

    Attributes:
        id: The query's id.
        prefix: What all prompts begin with.
        rests: The rest of each candidate's prompt.
        answers: For each candidate, the tokens of (yes, no) after its prompt.
        positive: Whether each candidate is relevant.
        tokens: Tokens of all prompts with their right answers.
        distinct_tokens: Those left when shared prefixes count once.
    """

    id: str
    prefix: array[int]
    rests: tuple[array[int], ...]
    answers: tuple[tuple[Tokens, Tokens], ...]
    positive: tuple[bool, ...]
    tokens: int
    distinct_tokens: int

    @property
    def prompts(self) -> list[Tokens]:
        """Each candidate's prompt."""
        prefix = tuple(self.prefix)
        return [prefix + tuple(rest) for rest in self.rests]

    @property
    def right(self) -> list[Tokens]:
        """The right answer after each prompt."""
        pairs = zip(self.answers, self.positive, strict=True)
        return [yes if positive else no for (yes, no), positive in pairs]

    @property
    def texts(self) -> list[Tokens]:
        """Each candidate's prompt with the right answer."""
        return [prompt + answer for prompt, answer in zip(self.prompts, self.right, strict=True)]

    @classmethod
    def of(
        cls,
        id: str,
        prompts: Sequence[Tokens],
        answers: Sequence[tuple[Tokens, Tokens]],
        positive: Sequence[bool],
    ) -> EncodedCase:
        """A case from its candidates' tokens."""
        first, last = min(prompts), max(prompts)
        shared = common(first, last)
        texts = [
            prompt + (yes if relevant else no)
            for prompt, (yes, no), relevant in zip(prompts, answers, positive, strict=True)
        ]
        stats = tree_stats(texts)
        return cls(
            id,
            array("i", first[:shared]),
            tuple(array("i", prompt[shared:]) for prompt in prompts),
            tuple(answers),
            tuple(positive),
            stats.tokens,
            stats.distinct_tokens,
        )


def encode_cases(
    cases: SizedCases,
    writer: RankingWriter,
    encoder: Encoder,
    *,
    compared: bool,
) -> list[EncodedCase]:
    """Writes and encodes all cases.

    Where the loss compares the candidates of a case (`compared`), it needs both kinds.

    Raises:
        DataError: If there are no cases, or a case has nothing to compare.
        PromptError: If a prompt does not fit; names the query.
    """
    encoded: list[EncodedCase] = []
    for case in cases:
        query = case.query
        positive = [item.id in case.relevant for item in query.candidates]
        if compared and all(positive):
            raise DataError(
                f"case {query.id}: all candidates are relevant, and the listwise loss compares "
                "relevant ones with others: raise data.train_negatives, or set train.loss to answer"
            )
        prompts: list[Tokens] = []
        answers: list[tuple[Tokens, Tokens]] = []
        for prompt in writer.rank(query):
            tokens, (yes, no) = encoder.encode_answers(prompt, writer.answers)
            prompts.append(tuple(tokens))
            answers.append((tuple(yes), tuple(no)))
        encoded.append(EncodedCase.of(query.id, prompts, answers, positive))
    if not encoded:
        raise DataError(
            "there are no training cases: lower data.min_history, or set train.epochs to 0"
        )
    return encoded


def fingerprint(cases: Sequence[EncodedCase]) -> str:
    """A hash of all cases in their order (16 hexadecimal digits of SHA-256)."""
    hashed = hashlib.sha256()
    for case in cases:
        parts = (
            case.id,
            list(case.prefix),
            [list(rest) for rest in case.rests],
            case.answers,
            case.positive,
        )
        hashed.update(repr(parts).encode())
    return hashed.hexdigest()[:16]
