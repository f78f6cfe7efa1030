"""Trains an item encoder and the ranker that reads its vectors, in one job.

A ranker of texts is trained first. The two then learn to order candidates as it does. Last the
ranker alone learns by the ranking loss, from vectors that the finished encoder made once of each
item: a step then reads no item's text. Each goes on with the weights of the one before.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from trsr.models.base import LanguageModel
from trsr.models.hf import load
from trsr.models.hf.item_vectors import (
    ENCODER,
    SLOTS,
    VECTORS,
    ItemEncoder,
    ItemVectors,
    StoredVectors,
    encoder_digest,
    open_encoder,
    restore_slots,
    write_vectors,
)
from trsr.models.hf.model import TransformersModel
from trsr.models.settings import ModelSettings
from trsr.models.weights import local_weights
from trsr.progress import Progress
from trsr.storage import files
from trsr.training.adapter import Adapter
from trsr.training.encode import EncodedCase, RankingWriter, SizedCases, encode_cases, fingerprint
from trsr.training.fit import WITHOUT_EFFECT, TrainResult, Validate, train
from trsr.training.losses import distillation_loss, scores
from trsr.training.settings import TrainSettings
from trsr.training.start import HUB_IDS, ModelInTraining, open_trainable, run_training

_OWN = f"{ENCODER}/"
"""What the encoder's weights are called by beside the ranker's."""
TEACHER = "teacher.safetensors"


class VectorAdapter(Adapter):
    """The LoRA weights of a ranker and of its item encoder, with the encoder's own weights.

    Both share the base model's weights in memory.

    Args:
        network: A causal language model; changed in place.
        tokenizer: The encoder's, to which marks of the chat format are text.
        count: Vectors of one item.
        settings: LoRA's shape, of both.
        base: The base model's name.
        seed: The run's seed.

    Attributes:
        encoder: The item encoder.
    """

    def __init__(
        self,
        network: Any,
        tokenizer: Any,
        count: int,
        settings: TrainSettings,
        base: str,
        seed: int,
    ) -> None:
        shared = {id(one): one for one in (*network.parameters(), *network.buffers())}
        own = copy.deepcopy(network, shared)
        super().__init__(network, settings, base, seed)
        self._encoder_lora = Adapter(own, settings, base, seed)
        self.encoder = ItemEncoder(own, tokenizer, count, seed)

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """The trained parameters by name, in a fixed order."""
        own = self._encoder_lora.parameters | self.encoder.own()
        named = {_OWN + name: one for name, one in own.items() if one.requires_grad}
        return super().parameters | named

    def weights(self) -> dict[str, Tensor]:
        """A copy of the weights, on the CPU; the encoder's under names of their own."""
        slots = {name: one.detach().cpu().clone() for name, one in self.encoder.own().items()}
        own = self._encoder_lora.weights() | slots
        return super().weights() | {_OWN + name: one for name, one in own.items()}

    def restore(self, weights: Mapping[str, Tensor]) -> None:
        """Puts back weights that `weights()` gave, or a plain ranker's alone."""
        ranker, own = _split(weights)
        super().restore(ranker)
        if own:
            self._encoder_lora.restore(own)
            restore_slots(self.encoder, own)

    def write(self, folder: Path, weights: Mapping[str, Tensor]) -> None:
        """Writes the ranker's adapter, and in a folder of it the encoder."""
        ranker, own = _split(weights)
        super().write(folder, ranker)
        slots = {name: own.pop(name) for name in self.encoder.own()}
        self._encoder_lora.write(folder / ENCODER, own)
        save_file(slots, folder / ENCODER / SLOTS)


def _split(weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The ranker's weights and the encoder's."""
    own = {name.removeprefix(_OWN): one for name, one in weights.items() if name.startswith(_OWN)}
    return {name: one for name, one in weights.items() if not name.startswith(_OWN)}, own


class _Encoded:
    """Encodes the items of a pass's cases, with gradients."""

    def __init__(self, items: ItemVectors) -> None:
        self._items = items

    def activations(self, cases: Sequence[EncodedCase]) -> contextlib.AbstractContextManager[None]:
        return self._items.training([one for case in cases for one in (case.prefix, *case.rests)])


def take_encoder(
    opened: TransformersModel,
    count: int,
    settings: TrainSettings,
    seed: int,
    finished: Path | None = None,
) -> tuple[VectorAdapter, _Encoded | None]:
    """Puts new weights of a ranker and its item encoder on an opened model.

    Args:
        opened: The model.
        count: Vectors of one item.
        settings: LoRA's shape, of both.
        seed: The run's seed.
        finished: The folder of a trained encoder, with its vectors: it stays as it is.

    Returns:
        The weights; and what gives a training step vectors with gradients, None where the encoder
        is finished.
    """
    base = local_weights(opened.settings.name, revision=opened.settings.revision)
    tokenizer = load.load_tokenizer(base, split_special_tokens=True)
    name = HUB_IDS.get(opened.settings.name, opened.settings.name)
    adapter = VectorAdapter(opened.network, tokenizer, count, settings, name, seed)
    if finished is None:
        return adapter, _Encoded(opened.take_items(count, lambda: adapter.encoder))
    adapter.encoder.requires_grad_(False)
    shape = tuple(adapter.encoder.slots.shape)
    stored = StoredVectors(finished / VECTORS, encoder_digest(finished), shape)
    opened.take_items(count, lambda: adapter.encoder, stored)
    return adapter, None


def train_vectors(
    cases: SizedCases,
    texts: Sequence[str],
    *,
    model: ModelSettings,
    words: Callable[[LanguageModel], RankingWriter],
    count: int,
    settings: TrainSettings,
    seed: int,
    out: Path,
    state: Path,
    validate: Validate | None,
    progress: Progress,
) -> TrainResult:
    """Trains a ranker of item vectors with its encoder; stoppable and resumable at any step.

    Args:
        cases: Training cases.
        texts: The catalog's distinct texts, as prompts would show them: their vectors are written.
        model: The base model.
        words: Makes the prompt writer: of vectors for a model that takes them, else of texts.
        count: Vectors of one item.
        settings: How each of the three trainings is made.
        seed: The run's seed.
        out: A folder for the adapter, with the encoder and the vectors in it.
        state: A folder for what a stopped run needs to resume.
        validate: As of `train`, of the last training.
        progress: Advances with each step.

    Returns:
        What the last training did; tokens, cases and seconds are of all three.

    Raises:
        As `train`.
    """
    job = _Job(cases, model, words, count, settings, seed, state, progress)
    text = train(
        cases,
        model=model,
        words=words,
        settings=_unchecked(settings),
        seed=seed,
        out=state / "text" / "adapter",
        state=state / "text",
        validate=None,
        progress=progress,
    )
    student = state / "distill" / "adapter"
    taught = job.run("distill", state / "text" / "adapter", student, None)
    write_vectors(
        texts,
        job.encoder(student),
        encoder_digest(student / ENCODER),
        student / ENCODER / VECTORS,
        work=state,
        batch_tokens=model.batch_tokens,
        progress=progress,
    )
    ranked = job.run("rank", student, out, validate)
    for path in files.listed(student / ENCODER):
        files.copy(path, out / ENCODER / path.name)
    summed = ("cases", "tokens", "distinct_tokens", "seconds", "step_seconds", "earlier_seconds")
    total = {name: sum(getattr(one, name) for one in (text, taught, ranked)) for name in summed}
    return replace(ranked, parameters=taught.parameters, **total)


@dataclass(frozen=True)
class _Job:
    """What the trainings of one job share."""

    cases: SizedCases
    model: ModelSettings
    words: Callable[[LanguageModel], RankingWriter]
    count: int
    settings: TrainSettings
    seed: int
    state: Path
    progress: Progress

    def run(self, phase: str, start: Path, out: Path, validate: Validate | None) -> TrainResult:
        """One training from the adapter in `start`: of ranker and encoder, or the ranker alone."""
        opened = open_trainable(self.model, "set it to transformers, or set train.epochs to 0")
        finished = start / ENCODER if phase == "rank" else None
        adapter, encoded = take_encoder(opened, self.count, self.settings, self.seed, finished)
        writer = self.words(opened)
        cases = encode_cases(self.cases, writer, opened, compared=True)
        in_training = ModelInTraining(opened)
        settings = self.settings if validate else _unchecked(self.settings)
        result = run_training(
            opened,
            cases,
            settings,
            name=self.model.name,
            identity={
                "cases": fingerprint(cases),
                "phase": phase,
                "start": files.hash_file(start / "adapter_model.safetensors"),
                "validated": validate is not None,
                **{k: v for k, v in settings.meaning().items() if k not in WITHOUT_EFFECT},
            },
            seed=self.seed,
            out=out,
            state=self.state / phase,
            progress=self.progress,
            validate=None if validate is None else lambda: validate(in_training),
            loss=distillation_loss(self.teacher()) if phase == "distill" else None,
            start=_read(start),
            unit=f"{phase} steps",
            adapter=adapter,
            activations=encoded,
        )
        return replace(result, shortened=writer.shortened)

    def encoder(self, out: Path) -> ItemEncoder:
        """The trained encoder."""
        base = local_weights(self.model.name, revision=self.model.revision)
        plain = self.model.model_copy(update={"scorer": "torch"})
        return open_encoder(plain, base, out / ENCODER, load.pick_device(plain))

    def teacher(self) -> dict[str, list[float]]:
        """What the ranker of texts gives each case's candidates."""
        path = self.state / TEACHER
        if not files.is_file(path):
            opened = open_trainable(self.model, "", self.state / "text" / "adapter")
            cases = encode_cases(self.cases, self.words(opened), opened, compared=True)
            most = self.model.batch_tokens
            with torch.no_grad():
                found = {case.id: scores(opened.network, [case], most).cpu() for case in cases}
            save_file(found, path.with_suffix(".new"))
            files.move(path.with_suffix(".new"), path)
        return {name: one.tolist() for name, one in load_file(path).items()}


def _unchecked(settings: TrainSettings) -> TrainSettings:
    return settings.model_copy(update={"validate_steps": 0, "patience": 0})


def _read(folder: Path) -> dict[str, Tensor]:
    """An adapter's weights, with its encoder's where it has one."""
    found = load_file(folder / "adapter_model.safetensors")
    if files.is_folder(folder / ENCODER):
        own = load_file(folder / ENCODER / "adapter_model.safetensors")
        own |= load_file(folder / ENCODER / SLOTS)
        found |= {_OWN + name: one for name, one in own.items()}
    return found
