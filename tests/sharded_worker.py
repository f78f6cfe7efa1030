"""Trainings whose layers' weights are sharded over two processes, for tests."""

from __future__ import annotations

import functools
import gc
import os
import random
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from tiny import tiny_network
from torch import nn

from trsr.errors import ModelError
from trsr.models.token_tree.kv_cache import decoder_of
from trsr.models.token_tree.tree import answer_states
from trsr.pipeline import training as pipeline
from trsr.progress import Progress
from trsr.training import train
from trsr.training.encode import EncodedCase
from trsr.training.group import Group, joined
from trsr.training.settings import TrainSettings
from trsr.training.step import Schedule, TrainingStep

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "listwise": ("llama", {"loss": "listwise"}),
    "answer": ("qwen2", {"loss": "answer", "targets": ("q_proj", "down_proj")}),
    "text": ("llama", {"loss": "text"}),
    "checkpointed": ("qwen3", {"loss": "listwise", "gradient_checkpointing": True}),
    "upper": ("gemma2", {"loss": "answer", "upper_layers": 1}),
}
"""The network's shape, and the settings."""

STEPS = 3


def cases() -> list[EncodedCase]:
    """Seven of unlike lengths: a step of three leaves one worker two of them, the last one none."""
    draw = random.Random(3)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(draw.randrange(3, 300) for _ in range(count))

    made = []
    for number, (candidates, length) in enumerate(
        ((2, 4), (4, 50), (3, 9), (2, 30), (5, 14), (2, 3), (3, 70))
    ):
        start = tokens(length)
        prompts = [start + tokens(2 + 3 * place) for place in range(candidates)]
        answers = [((5, 7), (9, 6, 8))] * candidates
        positive = [place == 0 for place in range(candidates)]
        made.append(EncodedCase.of(f"case {number}", prompts, answers, positive))
    return made


def stepping(network: Any, settings: TrainSettings, group: Group | None) -> TrainingStep:
    """The steps of the cases; in a group the layers are sharded."""
    return TrainingStep(
        network,
        cases(),
        Schedule(len(cases()), settings, 0),
        settings,
        base="tiny",
        batch_tokens=96,
        seed=0,
        group=group,
        sharded=torch.device("cpu") if group else None,
    )


def trained(variant: str, group: Group | None = None) -> dict[str, Any]:
    """Some steps with a validation between them; what came of them, as tensors and numbers."""
    shape, given = VARIANTS[variant]
    settings = TrainSettings(
        **{"dropout": 0.0, "learning_rate": 1e-2, "cases_per_step": 3, "epochs": 2} | given
    )
    network, every = tiny_network(shape), cases()
    whole = _numbers(network)
    step = stepping(network, settings, group)
    for name, parameter in step.adapter.parameters.items():
        if "lora_B" in name:  # zero at first, which would hide half of the gradient
            with torch.random.fork_rng():
                torch.manual_seed(2)
                torch.nn.init.normal_(parameter, std=0.1)

    def validated() -> list[float]:
        sequences = [prompt for case in every for prompt in case.prompts]
        with torch.no_grad():
            states = answer_states(network, sequences, batch_tokens=64)
        found: list[float] = states.sum(-1).tolist()
        return found

    results, validations = [], []
    for number in range(1, STEPS + 1):
        results.append(asdict(step.run(number)))
        validations.append(step.led(validated))
    return {
        "results": results,
        "validations": validations,
        "adapter": step.adapter.weights(),
        "moments": dict(step.moments),
        "numbers": (_numbers(network), whole),
    }


def _numbers(network: Any) -> tuple[int, int]:
    """How many numbers of the layers' frozen weights are here, gathered ones too; and of the rest.

    Gathered ones are found by their shapes, which only layers' weights have.
    """
    decoder = decoder_of(network)
    named = {name: one for name, one in decoder.named_parameters() if "lora_" not in name}
    layers = {one for name, one in named.items() if name.startswith("layers.")}
    shapes = {one.shape for one in layers if one.dim() == 2}
    local = [one.to_local() if hasattr(one, "to_local") else one for one in layers]
    gathered = [
        one
        for one in gc.get_objects()
        if type(one) is nn.Parameter and one not in layers and one.shape in shapes
    ]
    rest = sum(one.numel() for one in named.values() if one not in layers)
    return sum(one.untyped_storage().nbytes() // 4 for one in [*local, *gathered]), rest


def work(rank: int, size: int, folder: Path) -> None:
    """Makes all variants as one worker, one after the other; the results lie in the folder.

    In the end the second worker is lost within a step; what the first one says then lies there too.
    """
    torch.set_num_threads(1)
    for variant in VARIANTS:
        with joined(rank, size, folder / f"meeting {variant}") as group:
            torch.save(trained(variant, group), folder / f"{variant} {rank}")
    with joined(rank, size, folder / "last meeting") as group:
        network = tiny_network()
        step = stepping(network, TrainSettings(dropout=0.0, cases_per_step=3), group)
        step.run(1)
        if rank:
            decoder_of(network).layers[1].register_forward_hook(lambda *_: os._exit(9))
        try:
            step.run(2)
        except ModelError as error:
            (folder / "said").write_text(str(error))


def train_shard(shard: pipeline.TrainShard, progress: Progress) -> dict[str, Any]:
    """As the stage's own worker, with sharded weights."""
    with mock.patch.object(pipeline, "train", functools.partial(train, sharded=True)):
        return pipeline._train_shard(shard, progress)
