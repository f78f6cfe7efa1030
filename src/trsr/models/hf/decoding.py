"""Which token comes next in a text, and when it is finished: the same however it is computed."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from trsr.errors import PromptError
from trsr.models.base import Sampling
from trsr.models.chat_format import ChatFormat
from trsr.models.token_tree.tokens import Tokens
from trsr.settings import derive_seed
from trsr.types import Prompt


@dataclass
class Row:
    """One prompt being answered.

    Attributes:
        position: The prompt's position in the feed.
        prompt: Its tokens.
        layout: The chat format.
        turns: Tokens of the assistant's messages: worked examples, the begun answer last.
        opened: The mark with which the prompt itself opens the model's thinking, if it does.
        rng: The prompt's own random numbers, so that its neighbours change nothing.
        tokens: What has been generated.
        done: Whether the text is finished.
    """

    position: int
    prompt: Tokens
    layout: ChatFormat
    turns: tuple[Tokens, ...]
    opened: str
    rng: random.Random
    tokens: list[int] = field(default_factory=list)
    done: bool = False

    @property
    def answer(self) -> Tokens:
        """The answer so far, as begun and as generated."""
        return (*self.turns[-1], *self.tokens)

    @property
    def text(self) -> str:
        """The generated text up to its end, behind the prompt's thinking mark."""
        text = self.opened + self.layout.decode(self.prompt, self.tokens)
        return text.partition(self.layout.stop)[0] if self.layout.stop else text

    def write(self, token: int, stops: Collection[int], most: int) -> None:
        """Adds a token; a token of `stops`, the stop text or `most` tokens end the text."""
        if token in stops:
            self.done = True
            return
        self.tokens.append(token)
        self.done = len(self.tokens) == most or self._has_stop()

    def _has_stop(self) -> bool:
        stop = self.layout.stop
        return bool(stop) and stop in self.layout.decode(self.prompt, self.tokens)


def row_of(
    position: int, prompt: Prompt, layout: ChatFormat, sampling: Sampling, context_tokens: int
) -> Row:
    """A prompt that is to be answered.

    Raises:
        PromptError: If it leaves no room for its answer.
    """
    tokens = layout.encode(prompt)
    if len(tokens) + sampling.max_tokens > context_tokens:
        raise PromptError(
            f"prompt {position} has {len(tokens)} tokens and its answer may have "
            f"{sampling.max_tokens}, but {layout.name} is read with at most "
            f"{context_tokens}: shorten the prompt or raise model.context_tokens"
        )
    rng = random.Random(derive_seed(sampling.seed, *prompt.seed_parts))  # noqa: S311
    return Row(position, tokens, layout, layout.turns(prompt), layout.opened(prompt), rng)


def choose(logits: Tensor, rows: Sequence[Row], sampling: Sampling) -> list[int]:
    """The next token of each row; any for a finished one."""
    for place, row in enumerate(rows):
        if not row.done:
            _penalize(logits[place], row, sampling)
    if sampling.temperature == 0:
        greedy: list[int] = logits.argmax(-1).tolist()
        return greedy
    return [
        0 if row.done else _sample(logits[place], row.rng.random(), sampling)
        for place, row in enumerate(rows)
    ]


def _penalize(logits: Tensor, row: Row, sampling: Sampling) -> None:
    """Makes repetitions less likely or impossible, in place; logits: [vocabulary].

    The penalty (CTRL, arXiv 1909.05858, section 4.1) is on the tokens of this answer. Repeated
    runs are forbidden within this answer and the assistant's earlier ones, so that no worked
    example is repeated. Words of the user are free: a summary needs them.
    """
    answer = row.answer
    if sampling.repetition_penalty > 1 and answer:
        seen = torch.tensor(sorted(set(answer)), device=logits.device)
        values, penalty = logits[seen], sampling.repetition_penalty
        logits[seen] = torch.where(values > 0, values / penalty, values * penalty)
    size = sampling.no_repeat_ngram
    if size and len(answer) >= size - 1:
        last = answer[len(answer) - size + 1 :]
        for turn in (*row.turns[:-1], answer):
            for start in range(len(turn) - size + 1):
                if turn[start : start + size - 1] == last:
                    logits[turn[start + size - 1]] = -torch.inf


def _sample(logits: Tensor, share: float, sampling: Sampling) -> int:
    """The token at a share of the (nucleus') probability, likeliest first; logits: [vocabulary]."""
    scaled = logits.double().cpu() / sampling.temperature
    probabilities, order = scaled.softmax(-1).sort(descending=True, stable=True)
    reached = probabilities.cumsum(-1)
    # the smallest set that holds top_p: all that begin before it is full
    inside = int((reached - probabilities < sampling.top_p).sum())
    place = int(torch.searchsorted(reached[:inside], share * float(reached[inside - 1])))
    return int(order[min(place, inside - 1)])


def stop_tokens(network: Any, layout: ChatFormat) -> frozenset[int]:
    """The tokens that end a text: the tokenizer's, and all that the model's own settings name."""
    named = getattr(network.generation_config, "eos_token_id", None)
    every = [*(named if isinstance(named, list) else [named]), layout.tokenizer.eos_token_id]
    return frozenset(token for token in every if token is not None)
