"""Trains an item encoder and the ranker that reads its vectors, in one job.

A ranker of texts is trained first. The two then learn to order candidates as it does. Last the
ranker alone learns by the ranking loss, from vectors that the finished encoder made once of each
item: a step then reads no item's text. Soft summaries have an encoder of their own, which learns in
both. Each training goes on with the weights of the one before, and the first may go on with those
of another run.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from trsr.models.hf.soft_summary import SUMMARY, Items, SummaryEncoder
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

_SUMMARY = f"{ENCODER}/{SUMMARY}"
"""The summary encoder's folder in an adapter's."""
TEACHER = "teacher.safetensors"


class VectorAdapter(Adapter):
    """The LoRA weights of a ranker and of its encoders, with the encoders' own weights.

    All share the base model's weights in memory. The network is changed in place. With `summary`
    vectors of a soft summary a third LoRA is trained.
    """

    def __init__(
        self,
        network: Any,
        tokenizer: Any,
        count: int,
        settings: TrainSettings,
        base: str,
        seed: int,
        summary: int = 0,
    ) -> None:
        shared = {id(one): one for one in (*network.parameters(), *network.buffers())}
        own = copy.deepcopy(network, dict(shared))
        third = copy.deepcopy(network, dict(shared)) if summary else None
        super().__init__(network, settings, base, seed)
        lora = Adapter(own, settings, base, seed)
        self.encoder = ItemEncoder(own, tokenizer, count, seed)
        # by the folder that each is written to
        self._parts: dict[str, tuple[Adapter, ItemEncoder | SummaryEncoder]] = {
            ENCODER: (lora, self.encoder)
        }
        self.summary: SummaryEncoder | None = None
        if third is not None:
            lora = Adapter(third, settings, base, seed)
            self.summary = SummaryEncoder(third, summary, seed)
            self._parts[_SUMMARY] = lora, self.summary

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """The trained parameters by name, in a fixed order."""
        named = super().parameters
        for part, (lora, encoder) in self._parts.items():
            own = lora.parameters | encoder.own()
            named |= {f"{part}/{name}": one for name, one in own.items() if one.requires_grad}
        return named

    def weights(self) -> dict[str, Tensor]:
        """A copy of the weights, on the CPU; the encoders' under names of their own."""
        found = super().weights()
        for part, (lora, encoder) in self._parts.items():
            slots = {name: one.detach().cpu().clone() for name, one in encoder.own().items()}
            found |= {f"{part}/{name}": one for name, one in (lora.weights() | slots).items()}
        return found

    def restore(self, weights: Mapping[str, Tensor]) -> None:
        """Puts back weights that `weights()` gave, or a plain ranker's alone."""
        split = _split(weights)
        super().restore(split[""])
        for part, (lora, encoder) in self._parts.items():
            if part in split:
                lora.restore(split[part])
                restore_slots(encoder, split[part])

    def write(self, folder: Path, weights: Mapping[str, Tensor]) -> None:
        """Writes the ranker's adapter, and in a folder of it the encoders."""
        split = _split(weights)
        super().write(folder, split[""])
        for part, (lora, encoder) in self._parts.items():
            slots = {name: split[part].pop(name) for name in encoder.own()}
            lora.write(folder / part, split[part])
            save_file(slots, folder / part / SLOTS)


def _split(weights: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The weights of each part; the ranker's has no name."""
    found: dict[str, dict[str, Tensor]] = {}
    for name, one in weights.items():
        part, _, own = name.rpartition("/")
        found.setdefault(part, {})[own] = one
    return found


@dataclass(frozen=True)
class _Encoded:
    """Gives a pass vectors with gradients: of items that are learned, and of summaries."""

    opened: TransformersModel
    items: ItemVectors
    learned: ItemEncoder | None
    reach: int

    @contextlib.contextmanager
    def activations(self, cases: Sequence[EncodedCase]) -> Iterator[None]:
        sequences = [one for case in cases for one in (case.prefix, *case.rests)]
        summaries, learned = self.opened.summaries, self.learned
        late = summaries.late_items(sequences, self.reach) if summaries else []
        with contextlib.ExitStack() as vectors:
            if learned is not None:
                vectors.enter_context(self.items.training(sequences, late))
            if summaries is not None:
                # to read all texts of long histories in each step would cost more than all else
                early: Items = learned.plain if learned else self.items.of_texts
                vectors.enter_context(summaries.training(sequences, self.reach, early))
            yield


def take_encoder(
    opened: TransformersModel,
    count: int,
    settings: TrainSettings,
    seed: int,
    finished: Path | None = None,
    summary: int = 0,
    reach: int = 1,
) -> tuple[VectorAdapter, _Encoded | None]:
    """Puts new weights of a ranker and its item encoder on an opened model.

    Of a finished encoder, in its folder with its vectors, nothing is trained.

    Returns:
        The weights; and what gives a training step vectors with gradients, None where there are no
        such.
    """
    base = local_weights(opened.settings.name, revision=opened.settings.revision)
    tokenizer = load.load_tokenizer(base, split_special_tokens=True)
    name = HUB_IDS.get(opened.settings.name, opened.settings.name)
    adapter = VectorAdapter(opened.network, tokenizer, count, settings, name, seed, summary)
    stored = None
    if finished is not None:
        adapter.encoder.requires_grad_(False)
        shape = tuple(adapter.encoder.slots.shape)
        stored = StoredVectors(finished / VECTORS, encoder_digest(finished), shape)
    items = opened.take_items(count, lambda: adapter.encoder, stored)
    made = adapter.summary
    if made is not None:
        opened.take_summaries(summary, lambda: made)
    elif finished is not None:
        return adapter, None
    learned = None if finished else adapter.encoder
    return adapter, _Encoded(opened, items, learned, reach)


@dataclass(frozen=True)
class Start:
    """A trained ranker to go on from.

    Attributes:
        adapter: Its folder.
        cases: The training cases, as it reads them.
        words: Makes its prompt writer.
        vectors: Whether it reads vectors itself; else it is followed.
    """

    adapter: Path
    cases: SizedCases
    words: Callable[[LanguageModel], RankingWriter]
    vectors: bool = False


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
    summary: int = 0,
    reach: int = 1,
    start: Start | None = None,
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
        summary: Vectors of a soft summary, which an encoder of its own makes; 0: none.
        reach: Gradients go through so many latest blocks of a summary.
        start: A ranker of the same base model and LoRA's shape; None: one of texts is trained
            first.

    Returns:
        What the last training did; tokens, cases and seconds are of all that were made.

    Raises:
        As `train`.
    """
    made = []
    if start is None:
        start = Start(state / "text" / "adapter", cases, words)
        text = train(
            cases,
            model=model,
            words=words,
            settings=_unchecked(settings),
            seed=seed,
            out=start.adapter,
            state=state / "text",
            validate=None,
            progress=progress,
        )
        made.append(text)
    job = _Job(cases, model, words, count, settings, seed, state, progress, summary, reach, start)
    student = start.adapter
    if not start.vectors:
        student = state / "distill" / "adapter"
        made.append(job.run("distill", start.adapter, student, None))
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
    for path in files.listed(student / ENCODER, "*.*"):  # the summary encoder has learned more
        files.copy(path, out / ENCODER / path.name)
    summed = ("cases", "tokens", "distinct_tokens", "seconds", "step_seconds", "earlier_seconds")
    made.append(ranked)
    total = {name: sum(getattr(one, name) for one in made) for name in summed}
    return replace(ranked, parameters=max(one.parameters for one in made), **total)


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
    summary: int
    reach: int
    start: Start

    def run(self, phase: str, start: Path, out: Path, validate: Validate | None) -> TrainResult:
        """One training from the adapter in `start`: of ranker and encoder, or the ranker alone."""
        opened = open_trainable(self.model, "set it to transformers, or set train.epochs to 0")
        finished = start / ENCODER if phase == "rank" else None
        adapter, encoded = take_encoder(
            opened, self.count, self.settings, self.seed, finished, self.summary, self.reach
        )
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
                **({"summary": [self.summary, self.reach]} if self.summary else {}),
                **{k: v for k, v in settings.meaning().items() if k not in WITHOUT_EFFECT},
            },
            seed=self.seed,
            out=out,
            state=self.state / phase,
            progress=self.progress,
            validate=None if validate is None else lambda: validate(in_training),
            loss=distillation_loss(self.wanted()) if phase == "distill" else None,
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

    def wanted(self) -> dict[str, list[float]]:
        """What the ranker of texts gives each case's candidates."""
        path = self.state / TEACHER
        if not files.is_file(path):
            opened = open_trainable(self.model, "", self.start.adapter)
            writer = self.start.words(opened)
            cases = encode_cases(self.start.cases, writer, opened, compared=True)
            self.progress.begin(len(cases), "cases ranked by their texts")
            found = {}
            for case in cases:
                with torch.no_grad():
                    found[case.id] = scores(opened.network, [case], self.model.batch_tokens).cpu()
                self.progress.advance()
            with files.writing_path(path) as part:
                save_file(found, part)
        return {name: one.tolist() for name, one in load_file(path).items()}


def _unchecked(settings: TrainSettings) -> TrainSettings:
    return settings.model_copy(update={"validate_steps": 0, "patience": 0})


def _read(folder: Path) -> dict[str, Tensor]:
    """An adapter's weights, with its encoders' where it has some."""
    found = load_file(folder / "adapter_model.safetensors")
    for part in (ENCODER, _SUMMARY):
        if files.is_folder(folder / part):
            own = load_file(folder / part / "adapter_model.safetensors")
            own |= load_file(folder / part / SLOTS)
            found |= {f"{part}/{name}": one for name, one in own.items()}
    return found
