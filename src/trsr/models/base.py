"""The interface between trsr and language models: text in, text out; tokens never leak."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
import numpy.typing as npt
from pydantic import Field

from trsr.errors import PromptError
from trsr.settings import Settings
from trsr.types import Prompt

Q = TypeVar("Q")
Feed = Iterable[Prompt | None]
"""Prompts as they become ready. `None` means that nothing is ready until another answer has come:
the model must finish one before it asks again."""


class FeedReader(Generic[Q]):
    """Takes prompts, or other questions, from a feed, numbered from 0."""

    def __init__(self, feed: Iterable[Q | None]) -> None:
        self._source = iter(feed)
        self._position = 0
        self.ended = False

    def take(self) -> tuple[int, Q] | None:
        """The next (position, prompt); None where none is ready now, or the feed has ended."""
        if self.ended:
            return None
        try:
            prompt = next(self._source)
        except StopIteration:
            self.ended = True
            return None
        if prompt is None:
            return None
        self._position += 1
        return self._position - 1, prompt

    def check_ended(self) -> None:
        """Raises RuntimeError if the feed waits for an answer although all are made."""
        if not self.ended:
            raise RuntimeError("the feed waits for an answer, but none is being made")


def text_only(prompt: Prompt, backend: str) -> Prompt:
    """The prompt, for a backend that takes text alone.

    Raises:
        PromptError: If a part is no text; names the backend and the part.
    """
    for number, message in enumerate(prompt.messages, 1):
        if message.other is not None:
            raise PromptError(
                f"the backend {backend} takes text alone, and message {number} (role "
                f"{message.role}) holds {message.other}: leave it out, or choose a backend that "
                "takes it"
            )
    return prompt


class SamplingSettings(Settings):
    """How a model generates, as a configuration says it."""

    max_tokens: int = Field(96, ge=1, description="most tokens of one generated text")
    temperature: float = Field(0.0, ge=0, description="0 is greedy; above, texts are sampled")
    top_p: float = Field(1.0, gt=0, le=1, description="sample from this share of the probability")
    repetition_penalty: float = Field(
        1.0, ge=1, description="above 1, tokens already written become less likely"
    )
    no_repeat_ngram: int = Field(
        0, ge=0, description="forbid runs of this many tokens to occur twice; 0 allows all"
    )


class Sampling(SamplingSettings):
    """How a model generates; part of every key of the response cache."""

    seed: int = Field(
        0, ge=0, description="seed of sampled texts; each prompt's own seed is derived from it"
    )


@runtime_checkable
class LanguageModel(Protocol):
    """A model that generates text."""

    @property
    def identity(self) -> str:
        """Weights and settings in a few words: the same identity gives the same texts."""

    @property
    def context_tokens(self) -> int:
        """The most tokens of a prompt and its answer together."""

    def count_tokens(self, prompt: Prompt) -> int:
        """The prompt's tokens as the model would read it, chat format included."""

    def generate(self, prompts: Feed, sampling: Sampling) -> Iterator[tuple[int, str]]:
        """Yields (position of the prompt in the feed, text), each as soon as it is finished.

        Positions count prompts only, not the `None`s. Each prompt is answered exactly once. The
        text is what follows the prompt's begun answer, without it.

        Raises:
            ModelError: If the model cannot be reached or answers nonsense.
        """


class ModelWrapper:
    """A model in front of another one, which answers for it unless a subclass does."""

    def __init__(self, inner: LanguageModel) -> None:
        self.inner = inner

    @property
    def identity(self) -> str:
        """The inner model's identity."""
        return self.inner.identity

    @property
    def context_tokens(self) -> int:
        """The inner model's bound on a prompt and its answer together."""
        return self.inner.context_tokens

    def count_tokens(self, prompt: Prompt) -> int:
        """The prompt's tokens as the inner model would read it."""
        return self.inner.count_tokens(prompt)

    def generate(self, prompts: Feed, sampling: Sampling) -> Iterator[tuple[int, str]]:
        """As the inner model's."""
        return self.inner.generate(prompts, sampling)


class NoModel:
    """Stands where a strategy asks no model: nothing is loaded to write nothing."""

    identity = "none"
    context_tokens = 1 << 60

    def count_tokens(self, prompt: Prompt) -> int:
        """No prompt is read."""
        return 0

    def generate(self, prompts: Feed, sampling: Sampling) -> Iterator[tuple[int, str]]:
        """Raises RuntimeError if a prompt is asked after all."""
        if any(prompts):
            raise RuntimeError("a strategy with uses_llm = False asked a prompt")
        return iter(())


Table = npt.NDArray[np.float64]


@runtime_checkable
class ScoringModel(LanguageModel, Protocol):
    """A model that also gives the probability of an answer: only these can rank."""

    def score(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> npt.NDArray[np.float64]:
        """The log-probability of each answer after each prompt.

        Returns:
            Shape (prompts, answers), natural logarithms, the answers' own rows of the head
            computed in fp32 whatever the model's dtype.

        Raises:
            ModelError: If two answers have the same tokens after a prompt.
            PromptError: If a prompt with an answer exceeds the context.
        """


@runtime_checkable
class TextScoringModel(ScoringModel, Protocol):
    """A model that also says how likely it is to write a text and to end there."""

    def score_texts(self, prompts: Sequence[Prompt], texts: Sequence[Sequence[str]]) -> list[Table]:
        """How likely each text is as the whole answer to its prompt.

        Args:
            prompts: What is asked.
            texts: The texts after each prompt, none empty.

        Returns:
            One table a prompt, shape (texts, 2): the log-probability of the text and its end in
            nats, and their tokens.

        Raises:
            ModelError: If a text adds no token.
            PromptError: If a prompt with a text exceeds the context.
        """

    def search_texts(
        self, prompts: Sequence[Prompt], texts: Sequence[Sequence[str]], beams: int
    ) -> list[Table]:
        """The likeliest of some texts, found by beam search in the tree of their tokens.

        Args:
            prompts: What is asked.
            texts: The texts after each prompt; nothing else can be written.
            beams: How many begun texts are kept at each token; no more are found.

        Returns:
            One array a prompt, shape (texts): log-probabilities as of `score_texts`; −inf for a
            text that was not found.

        Raises:
            ModelError, PromptError: As `score_texts`.
        """
