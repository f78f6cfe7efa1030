"""Finds the keys under which a run's answers are stored, without asking a model.

A deletion must remove each stored answer to a prompt about the user. So the rankers ask again,
over models that answer zeros, and a response cache notes what it is asked for.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, cast

import numpy as np

from trsr.models.base import Feed, LanguageModel, ModelWrapper, Sampling, Table, TextScoringModel
from trsr.models.cached import CachedTextScoringModel
from trsr.storage.response_cache import ResponseCache
from trsr.types import Prompt

_NOTED: ContextVar[list[str] | None] = ContextVar("noted", default=None)


@contextlib.contextmanager
def noting() -> Iterator[list[str]]:
    """What this thread asks of a model of the service meanwhile has no answer but zeros.

    Yields:
        The keys of the answers in a response cache.
    """
    noted: list[str] = []
    token = _NOTED.set(noted)
    try:
        yield noted
    finally:
        _NOTED.reset(token)


def noted_model(inner: LanguageModel) -> CachedTextScoringModel | None:
    """What stands for a model in this thread while it notes; None where it does not."""
    noted = _NOTED.get()
    if noted is None:
        return None
    return CachedTextScoringModel(_Unasked(inner), cast(ResponseCache, _Notes(noted)))


def noting_model(model: LanguageModel) -> NotingModel:
    """A model that is asked nothing while a thread notes; it scores where the model does."""
    return NotingTextModel(model) if isinstance(model, TextScoringModel) else NotingModel(model)


class NotingModel(ModelWrapper):
    """A model that writes texts, and none while a thread notes."""

    inner: Any

    def _here(self) -> Any:
        return noted_model(self.inner) or self.inner

    def generate(self, prompts: Feed, sampling: Sampling) -> Iterator[tuple[int, str]]:
        """As the inner model."""
        found: Iterator[tuple[int, str]] = self._here().generate(prompts, sampling)
        return found


class NotingTextModel(NotingModel):
    """The same of a `TextScoringModel`."""

    def score(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> Table:
        """As the inner model."""
        return np.asarray(self._here().score(prompts, answers))

    def score_texts(self, prompts: Sequence[Prompt], texts: Sequence[Sequence[str]]) -> list[Table]:
        """As the inner model."""
        return list(self._here().score_texts(prompts, texts))

    def search_texts(
        self, prompts: Sequence[Prompt], texts: Sequence[Sequence[str]], beams: int
    ) -> list[Table]:
        """As the inner model."""
        return list(self._here().search_texts(prompts, texts, beams))


class _Unasked(ModelWrapper):
    """A model that reads nothing."""

    def generate(self, prompts: Feed, sampling: Sampling) -> Iterator[tuple[int, str]]:
        return ((place, "") for place, prompt in enumerate(filter(None, prompts)))

    def score(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> Table:
        return np.zeros((len(prompts), len(answers)))

    def score_texts(self, prompts: Sequence[Prompt], texts: Sequence[Sequence[str]]) -> list[Table]:
        return [np.tile([-1.0, 1.0], (len(own), 1)) for own in texts]

    def search_texts(
        self, prompts: Sequence[Prompt], texts: Sequence[Sequence[str]], beams: int
    ) -> list[Table]:
        return [np.zeros(len(own)) for own in texts]


class _Notes:
    """A response cache that holds nothing, and notes what it is asked for."""

    def __init__(self, noted: list[str]) -> None:
        self._noted = noted

    def take(self, keys: Sequence[str]) -> tuple[dict[str, object], set[str]]:
        self._noted += keys
        return {}, set(keys)

    def release(self, keys: Sequence[str]) -> None:
        pass

    def costs(self, keys: Sequence[str]) -> dict[str, Any]:
        return {}

    def put(self, key: str, value: object, cost: object = None) -> None:
        pass

    def put_all(self, values: Mapping[str, object], costs: object = None) -> None:
        pass
