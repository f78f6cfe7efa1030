"""Caches the activations below the adapted layers, so that later epochs don't compute them again.

Where LoRA adapts upper layers alone, the states that enter the lowest of them are the same in each
epoch. They are computed when a case is first trained on, written to a file, and read from there in
later epochs.
"""

from __future__ import annotations

import contextlib
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trsr.errors import StoreError
from trsr.models.token_tree.attention import Plan
from trsr.models.token_tree.kv_cache import can_keep, decoder_of
from trsr.models.token_tree.packed import can_pack
from trsr.models.token_tree.tokens import Tokens, common
from trsr.models.token_tree.tree import answer_states
from trsr.storage import files
from trsr.training.encode import EncodedCase
from trsr.training.settings import TrainSettings

FILE = "lower_layers.bin"


@dataclass(frozen=True, slots=True)
class Activations:
    """Distinct sorted sequences and the states of their tokens, each [tokens, hidden]."""

    sequences: list[Tokens]
    states: list[Tensor]

    def run(self, start: int, path: Tokens) -> Tensor:
        """The states of a path's tokens from `start` on; some sequence begins with the path."""
        return self.states[bisect_left(self.sequences, path)][start : len(path)]


class ActivationCache:
    """The activations of cases below the lowest adapted layer, cached in a file.

    Each case is computed without others, so its activations depend neither on the epoch nor on
    where a run was stopped. A resumed run computes them again. The file, made anew, takes the
    model's width times two bytes (four in fp32) a distinct token.

    Raises:
        StoreError: If the file cannot be written.
    """

    def __init__(
        self,
        network: Any,
        first: int,
        cases: Sequence[EncodedCase],
        *,
        batch_tokens: int,
        file: Path,
    ) -> None:
        self._network = network
        self._decoder = decoder_of(network)
        self._first = first
        self._cases = {case.id: case for case in cases}
        self._batch_tokens = batch_tokens
        self._file = file
        self._offsets: dict[str, int] = {}
        self._end = 0
        with self._write_errors():
            files.write_bytes(file, b"")

    @contextlib.contextmanager
    def activations(self, cases: Sequence[EncodedCase]) -> Iterator[None]:
        """Within the block, cached activations of these cases replace the lower layers.

        Only for passes over their prompts and answers.
        """
        found = [self._of(self._cases[name]) for name in sorted({case.id for case in cases})]
        pairs = sorted(
            (pair for one in found for pair in zip(one.sequences, one.states, strict=True)),
            key=lambda pair: pair[0],
        )
        every = Activations([tokens for tokens, _ in pairs], [states for _, states in pairs])
        with self._layers([_Replay(every), *self._decoder.layers[self._first :]]):
            yield

    def _of(self, case: EncodedCase) -> Activations:
        sequences = _sequences(case)
        fresh = _fresh(sequences)
        if case.id not in self._offsets:
            computed = self._compute(sequences)
            rows = [one[-count:] for one, count in zip(computed.states, fresh, strict=True)]
            self._offsets[case.id] = self._end
            with self._write_errors(), files.open_update(self._file) as file:
                file.seek(self._end)
                for part in rows:
                    file.write(part.contiguous().view(torch.uint8).numpy().data)
                self._end = file.tell()
            return computed
        return Activations(sequences, self._read(self._offsets[case.id], sequences, fresh))

    def _compute(self, sequences: list[Tokens]) -> Activations:
        recorder = _Recorder()
        with self._layers([*self._decoder.layers[: self._first], recorder]), torch.no_grad():
            answer_states(self._network, sequences, batch_tokens=self._batch_tokens)
        return Activations(sequences, [recorder.states(sequence) for sequence in sequences])

    def _read(self, offset: int, sequences: list[Tokens], fresh: list[int]) -> list[Tensor]:
        parameter: Tensor = next(self._decoder.parameters())
        width = self._decoder.config.hidden_size
        count = sum(fresh) * width * parameter.element_size()
        with files.open_read(self._file) as file:
            file.seek(offset)
            read = np.fromfile(file, np.uint8, count)
        rows = torch.split(torch.from_numpy(read).view(parameter.dtype).view(-1, width), fresh)
        states: list[Tensor] = []
        for sequence, own in zip(sequences, rows, strict=True):
            shared = len(sequence) - len(own)
            states.append(torch.cat([states[-1][:shared], own]) if shared else own)
        return states

    @contextlib.contextmanager
    def _layers(self, layers: Sequence[nn.Module]) -> Iterator[None]:
        own = self._decoder.layers
        self._decoder.layers = nn.ModuleList(layers)
        try:
            yield
        finally:
            self._decoder.layers = own

    @contextlib.contextmanager
    def _write_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreError(
                f"{self._file}: the activation cache cannot be written ({error}): "
                "free some space, or set train.epochs to 1 or train.upper_layers to 0"
            ) from error


def first_adapted_layer(
    network: Any, cases: Sequence[EncodedCase], settings: TrainSettings
) -> int | None:
    """The lowest adapted layer's number, where caching what stands below it pays; else None.

    It pays with several epochs, on the packed path of the token tree (a CPU, a plain decoder, no
    gradient checkpointing), and without dropout below the adapted layers.
    """
    decoder = decoder_of(network)
    layers = int(decoder.config.num_hidden_layers)
    if (
        not 0 < settings.upper_layers < layers
        or settings.epochs < 2
        or not (can_pack(decoder) and can_keep(network))
        or len({case.id for case in cases}) < len(cases)
    ):
        return None
    first = layers - settings.upper_layers
    others = [part for name, part in decoder.named_children() if name != "layers"]
    parts = [*others, *decoder.layers[:first]]
    dropouts = (one for part in parts for one in part.modules() if isinstance(one, nn.Dropout))
    return None if any(one.p for one in dropouts) else first


def _sequences(case: EncodedCase) -> list[Tokens]:
    """The sequences of a case that a loss may need, sorted."""
    found = {
        prompt + answer[:-1]
        for prompt, answers in zip(case.prompts, case.answers, strict=True)
        for answer in answers
    }
    return sorted(found)


def _fresh(sequences: Sequence[Tokens]) -> list[int]:
    """How many last tokens of each sorted sequence the one before does not share."""
    return [
        len(sequence) - (common(sequences[place - 1], sequence) if place else 0)
        for place, sequence in enumerate(sequences)
    ]


class _Recorder(nn.Module):
    """In place of the adapted layers: records the states that reach it."""

    def __init__(self) -> None:
        super().__init__()
        self._runs: list[tuple[int, Tokens, Tensor]] = []

    def forward(self, hidden_states: Tensor, *_: Any, token_tree: Plan, **others: Any) -> Tensor:
        ends = token_tree.starts
        for row, (start, path) in enumerate(token_tree.paths()):
            self._runs.append((start, path, hidden_states[0, ends[row] : ends[row + 1]]))
        return hidden_states

    def states(self, sequence: Tokens) -> Tensor:
        """The states of a sequence, joined from the runs on its path."""
        parts = sorted(
            (
                (start, states[: len(sequence) - start])
                for start, path, states in self._runs
                if start < len(sequence) and common(path, sequence) == min(len(path), len(sequence))
            ),
            key=lambda part: part[0],
        )
        return torch.cat([states for _, states in parts])


class _Replay(nn.Module):
    """In place of the frozen layers: returns cached activations."""

    def __init__(self, cached: Activations) -> None:
        super().__init__()
        self._cached = cached

    def forward(self, hidden_states: Tensor, *_: Any, token_tree: Plan, **others: Any) -> Tensor:
        parts = [self._cached.run(start, path) for start, path in token_tree.paths()]
        return nn.functional.pad(torch.cat(parts), (0, 0, 0, token_tree.filler))[None]
