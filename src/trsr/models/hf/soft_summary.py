"""Soft summaries: a few vectors of a whole history, made block by block.

s_k are the states of the base model, with a LoRA of its own, at the summary's slots after reading
[s_(k-1); block k's item vectors], as in the recurrent memory transformer (arXiv:2207.06881) and
AutoCompressors (arXiv:2305.14788). They stand in the ranker's prompt as vectors among its input
embeddings, as ICAE's memory slots do (arXiv:2307.06945). A state follows from the texts that were
read, so these are its name: one more block costs one step.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from trsr.errors import ModelError
from trsr.models.hf import load
from trsr.models.hf.item_vectors import (
    ItemVectors,
    embedding_size,
    look_up,
    read_slots,
    restore_slots,
    scaled,
)
from trsr.models.settings import ModelSettings
from trsr.models.token_tree.kv_cache import decoder_of
from trsr.models.token_tree.tree import token_states
from trsr.models.vector_format import SUMMARIES, VectorNumbers
from trsr.settings import derive_seed
from trsr.storage.response_cache import ResponseCache

_KEPT_BYTES = 2**28
"""Of states in memory."""
_MOST_TEXTS = 20_000
"""Of summaries, which a service that runs for months would gather."""
_UNDER_WAY = 1_000
"""More summaries than requests may wait."""
_BLOCKS_APART = "\n\n"
_WORD = re.compile(r"[ \u2581]?[^\W\d_]{3,}")

SUMMARY = "summary"
"""In an item encoder's folder: the summary encoder that was trained with it."""

Items = Callable[[Sequence[str]], Iterable[Tensor]]
"""Gives the vectors of items' texts, each [count, width]."""


@dataclass(frozen=True, slots=True)
class Step:
    """One block of what a soft summary has read.

    Attributes:
        number: Its place, from 1.
        key: Names the state behind it: a hash of all texts up to there.
        before: Names the state before it; empty at the first block.
        items: Its items' texts.
    """

    number: int
    key: str
    before: str
    items: tuple[str, ...]


def steps(text: str) -> list[Step]:
    """The blocks of a soft summary's text, oldest first (see `SoftSummary` of the strategies)."""
    found: list[Step] = []
    hashed = hashlib.sha256()
    for block in text.split(_BLOCKS_APART):
        items = tuple(line for line in block.splitlines() if line.strip())
        if not items:
            continue
        hashed.update(("\n".join(items) + _BLOCKS_APART).encode())
        before = found[-1].key if found else ""
        found.append(Step(len(found) + 1, hashed.hexdigest(), before, items))
    return found


class SummaryEncoder(nn.Module):
    """Makes soft summaries, in the space of the network's input embeddings.

    Attributes:
        slots: Input vectors that stand behind each block, [count, width].
        map: From a slot's state to what is added to its vector, [width, width].
    """

    def __init__(self, network: Any, count: int, seed: int = 0) -> None:
        super().__init__()
        self.network = network
        words = decoder_of(network).get_input_embeddings()
        weight = words.weight.detach()
        self._base = words.num_embeddings
        self._size = embedding_size(weight)
        width, device = weight.shape[1], weight.device
        generator = torch.Generator().manual_seed(derive_seed(seed, "summary slots"))
        drawn = torch.randn(count, width, generator=generator) * self._size
        self.slots = nn.Parameter(drawn.to(device))
        self.map = nn.Parameter(torch.zeros(width, width).to(device))
        self._read: Tensor = drawn[:0].to(device)  # the vectors that the pass under way reads
        self._passing = threading.RLock()
        look_up(network, self._base, self._own_vectors)

    def _own_vectors(self, numbers: Tensor) -> Tensor:
        return torch.cat([self.slots, self._read])[numbers - self._base]

    def advance(
        self,
        before: Sequence[Tensor | None],
        blocks: Sequence[Tensor],
        numbers: Sequence[int],
        batch_tokens: int,
    ) -> Tensor:
        """The states of summaries behind one more block, [summaries, 2, count, width], fp32.

        The network reads [the summary so far; the block's item vectors; the slots]. A new vector
        is the running mean over blocks of one part of their item vectors, moved by the map of the
        state at its slot. A state holds the vectors, and those means.

        Args:
            before: The states behind the block before; None at a user's first block.
            blocks: The blocks' item vectors, each [items, vectors of an item, width].
            numbers: The blocks' places in the history, from 1.
            batch_tokens: About how many tokens one forward pass may hold.
        """
        size = len(self.slots)
        slots = tuple(range(self._base, self._base + size))
        read, sequences, at = [], [], self._base + size
        for state, block in zip(before, blocks, strict=True):
            own = [*([] if state is None else [state[0]]), block.flatten(0, 1)]
            end = at + sum(map(len, own))
            sequences.append((*range(at, end), *slots))
            read += own
            at = end
        with self._passing:
            self._read = torch.cat(read)
            try:
                states, paths = token_states(self.network, sequences, batch_tokens=batch_tokens)
            finally:
                self._read = self._read[:0].detach()
        places = torch.tensor([path[-size:] for path in paths], device=states.device)
        moved = scaled(states[places].float(), self._size) @ self.map
        # part by part, so that a slot's mean is of like parts of all items
        rows = [block.transpose(0, 1).flatten(0, 1) for block in blocks]
        means = torch.stack([functional.adaptive_avg_pool1d(one.T, size).T for one in rows])
        none = torch.zeros_like(means[0])
        old = torch.stack([none if state is None else state[1] for state in before])
        counts = torch.tensor(numbers, device=old.device)[:, None, None]
        means = old + (means - old) / counts
        return torch.stack([scaled(means, self._size) + moved, means], 1)

    def own(self) -> dict[str, nn.Parameter]:
        """What is trained beside the LoRA, by name."""
        return {"slots": self.slots, "map": self.map}


def open_summary_encoder(
    settings: ModelSettings, base: Path, folder: Path, device: torch.device
) -> SummaryEncoder:
    """Opens a written encoder; arguments and errors as of `open_encoder`."""
    own = read_slots(folder)
    network = load.load_network(settings, base, folder, device)
    encoder = SummaryEncoder(network, len(own["slots"]))
    if own["slots"].shape != encoder.slots.shape:
        raise ModelError(f"the summary encoder in {folder} is of another model; train again")
    restore_slots(encoder, own)
    return encoder.requires_grad_(False).eval()


class SoftSummaries:
    """The vectors behind the numbers of soft summaries in a ranker's prompts.

    The network is changed in place, after its `ItemVectors`.

    Attributes:
        numbers: Gives summaries' texts their numbers.
        identity: Names the model whose states are kept.
    """

    def __init__(
        self,
        network: Any,
        count: int,
        items: ItemVectors,
        encoder: Callable[[], SummaryEncoder],
        *,
        batch_tokens: int,
    ) -> None:
        self.numbers = VectorNumbers(SUMMARIES, count, "summarize.vectors")
        self._words = decoder_of(network).get_input_embeddings()
        self.identity = ""
        self._items, self._encoder = items, encoder
        self._batch_tokens = batch_tokens
        self._made: OrderedDict[str, Tensor] = OrderedDict()  # by a step's key, [2, count, width]
        self._store: ResponseCache | None = None
        self._writes = False
        self._lock = threading.RLock()
        look_up(network, SUMMARIES, self._of)

    def keep_in(self, store: ResponseCache, *, write: bool = True) -> None:
        """Keeps states in a response cache too.

        With `write` what is read for a prompt is kept; else only what `keep` is asked for.
        """
        self._store, self._writes = store, write

    def forget(self) -> None:
        """Forgets states, and the texts of all but the latest summaries.

        Of the model, what it read by their numbers must be forgotten too.
        """
        with self._lock:
            self._made.clear()
        self.numbers.forget(_UNDER_WAY)

    @property
    def full(self) -> bool:
        """Whether so many texts are held that it is time to forget."""
        return len(self.numbers) > _MOST_TEXTS

    def keys(self, text: str) -> list[str]:
        """The response cache's keys of all states on the way to a summary."""
        return [self._stored_key(step.key) for step in steps(text)]

    def keep(self, text: str) -> list[str]:
        """Keeps a summary's state in the response cache; gives its key there."""
        if self._store is None or not steps(text):
            return []
        self.states([text], write=True)
        return self.keys(text)[-1:]

    def vectors(self, text: str) -> Tensor:
        """A summary's vectors, [count, width]."""
        return self.states([text])[0][0]

    def words(self, text: str, tokenizer: Any) -> list[str]:
        """For each vector of a summary the word whose input embedding is nearest to it (cosine).

        Words stand for what is not there: they are how a person may read the vectors, and how well
        is to be measured (see `trsr.recommender.SoftReading`).
        """
        words, numbers = self._spelled(tokenizer)
        table = self._words.weight.detach()[numbers].float()
        table = table / table.norm(dim=-1, keepdim=True).clamp_min(1e-9)
        nearest = (self.vectors(text).to(table) @ table.T).argmax(-1)
        return [words[place] for place in nearest.tolist()]

    def _spelled(self, tokenizer: Any) -> tuple[list[str], Tensor]:
        """The tokens that begin a word of three letters or more, and their numbers."""
        found = {}
        for token, number in tokenizer.get_vocab().items():
            text = tokenizer.convert_tokens_to_string([token])
            if number < self._words.num_embeddings and _WORD.fullmatch(text):
                found[number] = text.strip()
        numbers = sorted(found) or [0]
        return [found.get(one, "?") for one in numbers], torch.tensor(numbers)

    def states(self, texts: Sequence[str], *, write: bool | None = None) -> list[Tensor]:
        """The states behind summaries' texts, each [2, count, width]; what is not known is made.

        They are kept in the response cache as `write` or else `keep_in` says.
        """
        paths = [steps(text) for text in texts]
        with self._lock:
            known = {
                step.key: self._made[step.key]
                for own in paths
                for step in own
                if step.key in self._made
            }
            known |= self._stored([own for own in paths if own[-1].key not in known])
            old = set(known)
            with torch.no_grad():
                # a validation between two steps reads without dropout
                advance(
                    lambda: self._encoder().eval(),
                    known,
                    paths,
                    self._items.of_texts,
                    self._batch_tokens,
                )
            kept = {key: known[key] for own in paths for key in lasting(own) if key in known}
            fresh = {self._stored_key(key): one for key, one in kept.items() if key not in old}
            if fresh and self._store is not None and (self._writes if write is None else write):
                self._store.put_all({key: _packed(one) for key, one in fresh.items()})
            self._remember(kept)
        return [known[own[-1].key] for own in paths]

    def _remember(self, states: Mapping[str, Tensor]) -> None:
        for key, state in states.items():
            self._made[key] = state
            self._made.move_to_end(key)
            while len(self._made) * state.nbytes > _KEPT_BYTES:
                self._made.popitem(last=False)

    def _stored_key(self, key: str) -> str:
        return hashlib.sha256(f"soft summary {self.identity} {key}".encode()).hexdigest()

    def _stored(self, paths: Sequence[Sequence[Step]]) -> dict[str, Tensor]:
        """Of each path the latest state that the response cache holds."""
        if self._store is None or not paths:
            return {}
        names = {self._stored_key(step.key): step.key for own in paths for step in own}
        weight = self._words.weight
        return {
            names[key]: _unpacked(str(value), self.numbers.count, weight.device)
            for key, value in self._store.get(list(names)).items()
        }

    def _of(self, numbers: Tensor) -> Tensor:
        """[numbers] → [numbers, width]."""
        places = numbers - self.numbers.base
        blocks, rows = torch.unique(places // self.numbers.count, return_inverse=True)
        texts = [self.numbers.text(block) for block in blocks.tolist()]
        with self._lock:
            table = torch.stack([state[0] for state in self.states(texts)])
        found: Tensor = table[rows, places % self.numbers.count]
        return found

    @contextlib.contextmanager
    def training(
        self, sequences: Sequence[Sequence[int]], reach: int, earlier: Items
    ) -> Iterator[None]:
        """Within the block all summaries in these sequences are the encoder's, with gradients.

        Args:
            sequences: Prompts.
            reach: Gradients go through so many latest blocks; their items' vectors are those of
                `ItemVectors.training`, which must hold.
            earlier: Gives the vectors of earlier blocks' items, without gradients.
        """
        paths = [steps(self.numbers.text(block)) for block in self.numbers.blocks(sequences)]
        encoder = self._encoder()
        known: dict[str, Tensor] = {}
        with torch.no_grad():
            encoder.eval()
            early = [own[:-reach] for own in paths]
            advance(lambda: encoder, known, early, earlier, self._batch_tokens)
        encoder.train()
        # apart from the early states, which another history of the same user may share
        late = [_apart(own[-reach:]) for own in paths]
        advance(lambda: encoder, known, late, self._items.of_texts, self._batch_tokens)
        self._made.clear()
        self._made |= {
            own[-1].key: known[new[-1].key] for own, new in zip(paths, late, strict=True)
        }
        try:
            yield
        finally:
            self._made.clear()

    def late_items(self, sequences: Sequence[Sequence[int]], reach: int) -> list[str]:
        """The texts of the items in the latest blocks of all summaries in these sequences."""
        paths = [steps(self.numbers.text(block)) for block in self.numbers.blocks(sequences)]
        return list(
            dict.fromkeys(item for own in paths for step in own[-reach:] for item in step.items)
        )


def lasting(path: Sequence[Step]) -> list[str]:
    """The states worth keeping: the last, and the one before where a block is still open."""
    still_open = len(path) > 1 and len(path[-1].items) < len(path[0].items)
    return [step.key for step in path[-1 - still_open :]]


def _apart(path: Sequence[Step]) -> list[Step]:
    """The same steps from the same state, under names of their own."""
    start = path[0].before
    return [
        replace(
            step,
            key=f"{start} {step.key}",
            before=f"{start} {step.before}" if number else start,
        )
        for number, step in enumerate(path)
    ]


def advance(
    encoder: Callable[[], SummaryEncoder],
    known: dict[str, Tensor],
    paths: Sequence[Sequence[Step]],
    items: Items,
    batch_tokens: int,
) -> None:
    """Makes the states on some paths that are not known, all histories' k-th blocks together.

    Args:
        encoder: Makes them; asked for where one is missing.
        known: States by key; those that are made are added.
        paths: The steps of each history; behind its latest known state all are made.
        items: Gives items' vectors.
        batch_tokens: About how many tokens one forward pass may hold.
    """
    levels: dict[int, dict[str, Step]] = {}
    for own in paths:
        for step in reversed(own):
            if step.key in known:
                break
            levels.setdefault(step.number, {})[step.key] = step
    if not levels:
        return
    missing = [step for level in levels.values() for step in level.values()]
    texts = list(dict.fromkeys(item for step in missing for item in step.items))
    device = encoder().slots.device
    vectors = {text: one.to(device).float() for text, one in zip(texts, items(texts), strict=True)}
    for number in sorted(levels):
        level = list(levels[number].values())
        made = encoder().advance(
            [known[step.before] if step.before else None for step in level],
            [torch.stack([vectors[item] for item in step.items]) for step in level],
            [number] * len(level),
            batch_tokens,
        )
        known |= zip((step.key for step in level), made, strict=True)


def _packed(state: Tensor) -> str:
    return base64.b64encode(state.float().cpu().numpy().tobytes()).decode()


def _unpacked(text: str, count: int, device: torch.device) -> Tensor:
    numbers = np.frombuffer(base64.b64decode(text), np.float32).reshape(2, count, -1)
    return torch.from_numpy(numbers.copy()).to(device)
