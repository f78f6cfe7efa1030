"""A public fake: a model that answers from a script, for pipelines without torch and for tests."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trsr.errors import ConfigError, ModelError, PromptError
from trsr.models.base import Feed, FeedReader, Sampling, text_only
from trsr.models.settings import ModelSettings
from trsr.types import Message, Prompt

_CHAT_TOKENS = 4  # counted for each message, as a chat format has some
_SHARPNESS = 8.0  # how many nats all words in common are worth

Reply = Callable[[Prompt], str] | Mapping[str, str]
Scores = Callable[[Prompt, str], float]


class ScriptedModel:
    """A `ScoringModel` with scripted answers.

    Args:
        reply: The text that answers a prompt; or a table: the first key that occurs in the prompt
            gives the text.
        scores: The score of an answer after a prompt, any finite number; log-probabilities are
            made of them by a softmax over the answers.
        identity: As a model's.
        context_tokens: As a model's; a token here is a word.
        in_flight: How many prompts it takes before it finishes one.
        shuffle: Seeds a random order in which prompts finish; None: in the order taken.
    """

    def __init__(
        self,
        reply: Reply | None = None,
        scores: Scores | None = None,
        *,
        identity: str = "scripted",
        context_tokens: int = 2048,
        in_flight: int = 16,
        shuffle: int | None = None,
    ) -> None:
        self._reply = _in_table(reply) if isinstance(reply, Mapping) else reply or first_words
        self._scores = scores or common_words
        self.identity = identity
        self.context_tokens = context_tokens
        self._in_flight = in_flight
        self._shuffle = shuffle

    def count_tokens(self, prompt: Prompt) -> int:
        """Words, and four more for each message."""
        messages = text_only(prompt, "scripted").messages
        return sum(_CHAT_TOKENS + len(message.content.split()) for message in messages)

    def generate(self, prompts: Feed, sampling: Sampling) -> Iterator[tuple[int, str]]:
        """Yields (position, text), at most `max_tokens` words.

        Raises:
            ModelError: If the table has no answer.
            PromptError: If a prompt exceeds the context.
        """
        feed, rng = FeedReader(prompts), random.Random(self._shuffle)  # noqa: S311 - no secret
        taken: list[tuple[int, Prompt]] = []
        while taken or not feed.ended:
            while len(taken) < self._in_flight and (entry := feed.take()):
                taken.append(entry)
            if taken:
                at = 0 if self._shuffle is None else rng.randrange(len(taken))
                index, prompt = taken.pop(at)
                yield index, self._text(prompt, sampling)
            else:
                feed.check_ended()

    def _text(self, prompt: Prompt, sampling: Sampling) -> str:
        self._check_length(prompt, "")
        words = self._reply(prompt).split(" ")
        return " ".join(words[: sampling.max_tokens])

    def _check_length(self, prompt: Prompt, answer: str) -> None:
        tokens = self.count_tokens(prompt) + len(answer.split())
        if tokens > self.context_tokens:
            raise PromptError(
                f"a prompt of {tokens} tokens exceeds the model's context of {self.context_tokens}"
            )

    def score(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> npt.NDArray[np.float64]:
        """The scores' log-softmax over the answers, shape (prompts, answers).

        Raises:
            ModelError: If an answer stands twice.
            PromptError: If a prompt with an answer exceeds the context.
        """
        if len(set(answers)) < len(answers):
            raise ModelError(f"the answers {list(answers)} are not all different")
        rows = []
        for prompt in prompts:
            for answer in answers:
                self._check_length(prompt, answer)
            scores = [self._scores(prompt, answer) for answer in answers]
            total = math.log(sum(math.exp(score - max(scores)) for score in scores))
            rows.append([score - max(scores) - total for score in scores])
        return np.array(rows, dtype=np.float64).reshape(len(prompts), len(answers))


def open_model(settings: ModelSettings, adapter: Path | None = None) -> ScriptedModel:
    """Opens the fake as a backend: it answers with items' first words and scores common words.

    Raises:
        ConfigError: If it is given an adapter.
    """
    if adapter is not None:
        raise ConfigError("the scripted model cannot take an adapter: set train.epochs to 0")
    return ScriptedModel(
        identity=f"scripted {settings.name}",
        context_tokens=settings.context_tokens,
        in_flight=settings.batch_size,
    )


def first_words(prompt: Prompt) -> str:
    """A sentence of three words of each line of the last user message.

    Of `column: value` the value's first three, of any other line the last three.
    """
    starts = []
    for line in _asked(prompt).splitlines():
        value = line.partition(": ")[2].split()
        starts.append(" ".join(value[:3] or line.split()[-3:]).strip(";.,"))
    return f" {', '.join(start for start in starts if start)}."


def common_words(prompt: Prompt, answer: str) -> float:
    """How many of the last line's words occur before it, for yes; as much against it for no.

    The last line is the candidate in the prompts of trsr. An answer that begins like "no" is no.
    """
    *before, last = _asked(prompt).splitlines() or [""]
    known = set(" ".join(before).casefold().split())
    words = set(last.casefold().split())
    share = len(words & known) / max(len(words), 1)
    sign = -1.0 if answer.strip().casefold().startswith("no") else 1.0
    return sign * _SHARPNESS * (share - 0.5) / 2


def _asked(prompt: Prompt) -> str:
    asked: list[Message] = [m for m in prompt.messages if m.role == "user"]
    return asked[-1].content.strip() if asked else ""


def _in_table(table: Mapping[str, str]) -> Callable[[Prompt], str]:
    def reply(prompt: Prompt) -> str:
        conversation = "\n".join(message.content for message in prompt.messages)
        for sign, text in table.items():
            if sign in conversation:
                return text
        raise ModelError(f"the script has no answer to a prompt that ends {conversation[-80:]!r}")

    return reply
