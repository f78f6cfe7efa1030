"""Which token comes next in a text, and when it is finished: the same however it is computed."""

from __future__ import annotations

import itertools
import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from trsr.errors import PromptError
from trsr.models.base import Feed, Sampling
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
        layout: What made them.
        turns: Tokens of what the assistant has said in it: worked examples, the begun answer last.
        opened: The mark with which the prompt itself opens a thinking, empty where it does not.
        draws: The prompt's own random numbers, so that its neighbours change nothing.
        tokens: What has been generated.
        done: Whether the text is finished.
    """

    position: int
    prompt: Tokens
    layout: ChatFormat
    turns: tuple[Tokens, ...]
    opened: str
    draws: random.Random
    tokens: list[int] = field(default_factory=list)
    done: bool = False

    @property
    def answer(self) -> Tokens:
        """The answer so far, as begun and as generated."""
        return (*self.turns[-1], *self.tokens)

    @property
    def text(self) -> str:
        """What has been generated, without what ends it, behind the mark that the prompt left."""
        text = self.opened + self.layout.decode(self.prompt, self.tokens)
        return text.partition(self.layout.stop)[0] if self.layout.stop else text

    def write(self, token: int, stops: Collection[int], most: int) -> None:
        """Takes a token in; the text may be finished by it.

        Args:
            token: What was chosen.
            stops: Tokens that end a text and are no part of it.
            most: Tokens at which the text ends.
        """
        if token in stops:
            self.done = True
            return
        self.tokens.append(token)
        self.done = len(self.tokens) == most or self._stop_said()

    def _stop_said(self) -> bool:
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
    draws = random.Random(derive_seed(sampling.seed, *prompt.seed_parts))  # noqa: S311
    return Row(position, tokens, layout, layout.turns(prompt), layout.opened(prompt), draws)


def enumerate_prompts(feed: Feed) -> Iterator[tuple[int, Prompt] | None]:
    """Numbers the feed's prompts; its `None`s are passed on and not counted."""
    counter = itertools.count()
    return (None if prompt is None else (next(counter), prompt) for prompt in feed)


def choose(logits: Tensor, rows: Sequence[Row], sampling: Sampling) -> list[int]:
    """The next token of each row; any for a finished one."""
    for place, row in enumerate(rows):
        if not row.done:
            _penalize(logits[place], row, sampling)
    if sampling.temperature == 0:
        greedy: list[int] = logits.argmax(-1).tolist()
        return greedy
    return [
        0 if row.done else _draw(logits[place], row.draws.random(), sampling)
        for place, row in enumerate(rows)
    ]


def _penalize(logits: Tensor, row: Row, sampling: Sampling) -> None:
    """Makes repetitions less likely or impossible, in place; logits: [vocabulary].

    The penalty (CTRL, arXiv 1909.05858, section 4.1) is on the tokens of this answer. Forbidden
    are the runs of this answer and of the assistant's earlier ones, so that a worked example is
    not answered a second time. What the user says is free to be taken up in both: a summary
    lives on the words of what it sums up.
    """
    answer = row.answer
    if sampling.repetition_penalty > 1 and answer:
        seen = torch.tensor(sorted(set(answer)), device=logits.device)
        values, penalty = logits[seen], sampling.repetition_penalty
        logits[seen] = torch.where(values > 0, values / penalty, values * penalty)
    size = sampling.no_repeat_ngram
    if size and len(answer) >= size - 1:
        last = answer[len(answer) - size + 1 :]
        for said in (*row.turns[:-1], answer):
            for start in range(len(said) - size + 1):
                if said[start : start + size - 1] == last:
                    logits[said[start + size - 1]] = -torch.inf


def _draw(logits: Tensor, share: float, sampling: Sampling) -> int:
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
