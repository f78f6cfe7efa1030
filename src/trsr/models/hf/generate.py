"""Generates texts for a feed of prompts, in batches whose common prefix is computed once."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from trsr.errors import ModelError, PromptError
from trsr.models.base import Feed, FeedReader, Sampling
from trsr.models.chat_format import ChatFormat
from trsr.models.token_tree.kv_cache import Bank, LayerKV, can_keep, cut, decoder_of, run
from trsr.models.token_tree.tokens import Tokens, common
from trsr.models.token_tree.tree import all_logits
from trsr.settings import derive_seed
from trsr.types import Prompt


@dataclass
class Row:
    """One prompt being answered.

    Attributes:
        position: The prompt's position in the feed.
        prompt: Its tokens.
        chat_format: The chat format.
        turns: Tokens of the assistant's messages: worked examples, the begun answer last.
        opened: The mark with which the prompt itself opens the model's thinking, if it does.
        rng: The prompt's own random numbers, so that its neighbours change nothing.
        tokens: What has been generated.
        done: Whether the text is finished.
    """

    position: int
    prompt: Tokens
    chat_format: ChatFormat
    turns: tuple[Tokens, ...]
    opened: str
    rng: random.Random
    tokens: list[int] = field(default_factory=list)
    done: bool = False

    @property
    def kind(self) -> Tokens:
        """Prompts with the same run together."""
        return self.chat_format.kind(self.prompt[:KIND])

    @property
    def answer(self) -> Tokens:
        """The answer so far, as begun and as generated."""
        return (*self.turns[-1], *self.tokens)

    @property
    def text(self) -> str:
        """The generated text up to its end, behind the prompt's thinking mark."""
        text = self.opened + self.chat_format.decode(self.prompt, self.tokens)
        return text.partition(self.chat_format.stop)[0] if self.chat_format.stop else text

    def write(self, token: int, stops: Collection[int], most: int) -> None:
        """Adds a token; a token of `stops`, the stop text or `most` tokens end the text."""
        if token in stops:
            self.done = True
            return
        self.tokens.append(token)
        self.done = len(self.tokens) == most or self._has_stop()

    def _has_stop(self) -> bool:
        stop = self.chat_format.stop
        return bool(stop) and stop in self.chat_format.decode(self.prompt, self.tokens)


def row_of(
    position: int, prompt: Prompt, chat_format: ChatFormat, sampling: Sampling, context_tokens: int
) -> Row:
    """A prompt that is to be answered.

    Raises:
        PromptError: If it leaves no room for its answer.
    """
    tokens = chat_format.encode(prompt)
    if len(tokens) + sampling.max_tokens > context_tokens:
        raise PromptError(
            f"prompt {position} has {len(tokens)} tokens and its answer may have "
            f"{sampling.max_tokens}, but {chat_format.name} is read with at most "
            f"{context_tokens}: shorten the prompt or raise model.context_tokens"
        )
    rng = random.Random(derive_seed(sampling.seed, *prompt.seed_parts))  # noqa: S311
    return Row(
        position, tokens, chat_format, chat_format.turns(prompt), chat_format.opened(prompt), rng
    )


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


def stop_tokens(network: Any, chat_format: ChatFormat) -> frozenset[int]:
    """The tokens that end a text: the tokenizer's, and all that the model's own settings name."""
    named = getattr(network.generation_config, "eos_token_id", None)
    every = [*(named if isinstance(named, list) else [named]), chat_format.tokenizer.eos_token_id]
    return frozenset(token for token in every if token is not None)


LOOK_AHEAD = 4
"""Batches of prompts pulled from the feed: enough to find ones of like length."""
STEM = 32
"""The fewest tokens of a common prefix worth caching."""
KIND = 48
"""Prompts that share this many first tokens are of one kind and run together."""


class Generator:
    """Answers a feed with one model.

    A batch holds prompts of one kind and like length; their common prefix (an instruction, worked
    examples) is computed once and cached. A batch shrinks as its texts finish. In bf16 a greedy
    text may depend on its batch, where sums have another order. A sampled text has its own seed.

    Raises:
        ModelError: If the model's layers hold what cannot be kept as keys and values.
    """

    def __init__(
        self, network: Any, chat_format: ChatFormat, batch_size: int, context_tokens: int
    ) -> None:
        if not can_keep(network):
            raise ModelError(
                f"{chat_format.name} does not keep plain keys and values, and cannot generate "
                "here: serve it with vLLM or llama.cpp and use the openai backend"
            )
        self.network, self.chat_format = network, chat_format
        self.batch_size, self.context_tokens = batch_size, context_tokens
        self._stops = stop_tokens(network, chat_format)
        self._stems: dict[Tokens, tuple[Tokens, Bank]] = {}

    def answer(self, feed: Feed, sampling: Sampling) -> Iterator[tuple[int, str]]:
        """Yields (position, text) as `LanguageModel.generate` says.

        Raises:
            PromptError: If a prompt leaves no room for its answer.
        """
        reader, pool = FeedReader(feed), list[Row]()
        while not reader.ended or pool:
            while len(pool) < LOOK_AHEAD * self.batch_size and (entry := reader.take()):
                pool.append(row_of(*entry, self.chat_format, sampling, self.context_tokens))
            if pool:
                yield from self._run(_take(pool, self.batch_size), sampling)
            else:
                reader.check_ended()

    def _run(self, rows: list[Row], sampling: Sampling) -> Iterator[tuple[int, str]]:
        batch, logits = self._read(rows, sampling.max_tokens)
        while True:
            tokens = choose(logits, batch.rows, sampling)
            going = []
            for place, row in enumerate(batch.rows):
                if not row.done:
                    row.write(tokens[place], self._stops, sampling.max_tokens)
                    if row.done:
                        yield row.position, row.text
                    else:
                        going.append(place)
            if not going:
                return
            # finished rows stay until dropping them is worth copying the others
            if len(going) <= 0.75 * len(batch.rows):
                batch.keep(going)
                tokens = [tokens[place] for place in going]
            logits = batch.step(self.network, tokens)

    @torch.no_grad()
    def _read(self, rows: list[Row], room: int) -> tuple[Batch, Tensor]:
        """Reads the prompts: the batch, and each row's next logits."""
        decoder = decoder_of(self.network)
        stem, bank = self._stem(decoder, [row.prompt for row in rows])
        segments = [row.prompt[stem:] for row in rows]
        hidden, kept = run(decoder, segments, bank, [0] * len(rows) if bank else (), keep=True)
        last = [len(segment) - 1 for segment in segments]
        states = hidden[list(range(len(rows))), last]
        return Batch(rows, kept, room), all_logits(self.network, states)

    def _stem(self, decoder: Any, prompts: Sequence[Tokens]) -> tuple[int, Bank | None]:
        """The length of the prompts' common prefix, and its keys and values where cached."""
        low, high = min(prompts), max(prompts)
        shared = low[: min(common(low, high), min(map(len, prompts)) - 1)]
        kept, bank = self._stems.get(shared[:KIND], ((), Bank((), ())))
        known = common(kept, shared)
        if known > max(STEM, len(shared) - STEM):
            return known, cut(decoder, bank, kept[:known])
        if len(shared) < STEM or len(prompts) == 1:
            return 0, None
        _, bank = run(decoder, [shared], keep=True)
        self._stems.pop(shared[:KIND], None)
        self._stems[shared[:KIND]] = (shared, bank)
        if len(self._stems) > 4:
            del self._stems[next(iter(self._stems))]
        return len(shared), bank


class Batch:
    """Rows being answered side by side."""

    def __init__(self, rows: list[Row], bank: Bank, room: int) -> None:
        self.rows = rows
        self._read = torch.tensor(bank.lengths)
        self._next = torch.tensor(bank.nexts or bank.lengths)
        self._width = max(bank.lengths)
        self._steps = 0
        self._layers = [_GrowingLayer(past, room) for past in bank.layers]
        self._cache = Cache(layers=self._layers)

    @torch.no_grad()
    def step(self, network: Any, tokens: Sequence[int]) -> Tensor:
        """Reads one more token a row: the logits of the next, [rows, vocabulary], fp32."""
        decoder = decoder_of(network)
        device = next(decoder.parameters()).device
        self._steps += 1
        mask = None
        if int(self._read.min()) < self._width:
            behind = torch.arange(self._width)[None, :] >= self._width - self._read[:, None]
            mask = F.pad(behind, (0, self._steps), value=True).long().to(device)
        positions = (self._next + self._steps - 1)[:, None]
        output = decoder(
            input_ids=torch.tensor(tokens, device=device)[:, None],
            attention_mask=mask,
            position_ids=positions.to(device),
            past_key_values=self._cache,
            use_cache=True,
        )
        return all_logits(network, output.last_hidden_state[:, -1])

    def keep(self, places: list[int]) -> None:
        """Drops all rows but these."""
        self.rows = [self.rows[place] for place in places]
        self._read, self._next = self._read[places], self._next[places]
        for layer in self._layers:
            layer.select(places)


class _GrowingLayer(DynamicLayer):  # type: ignore[misc]
    """One layer's keys and values in a buffer with room: a step writes its own and copies none."""

    def __init__(self, past: LayerKV, room: int) -> None:
        super().__init__()
        self.length = past[0].shape[2]
        self.keys, self.values = (F.pad(part, (0, 0, 0, room)) for part in past)
        self.is_initialized = True

    def get_seq_length(self) -> int:
        return self.length

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> LayerKV:
        start, self.length = self.length, self.length + key_states.shape[2]
        self.keys[:, :, start : self.length] = key_states
        self.values[:, :, start : self.length] = value_states
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]

    def select(self, places: list[int]) -> None:
        self.keys, self.values = self.keys[places], self.values[places]


def _take(pool: list[Row], size: int) -> list[Row]:
    """Takes a batch out of the pool: of the commonest kind, the longest."""
    kinds = Counter(row.kind for row in pool)
    kind = max(kinds, key=lambda tokens: kinds[tokens])
    alike = sorted((row for row in pool if row.kind == kind), key=lambda row: -len(row.prompt))
    taken = alike[:size]
    positions = {row.position for row in taken}
    pool[:] = [row for row in pool if row.position not in positions]
    return taken
