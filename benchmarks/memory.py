"""Peak memory of training alone, in a process of its own, and where it goes; `-m` runs it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Collection, Iterable
from dataclasses import asdict
from typing import Any

from benchmarks.options import TrainOptions
from benchmarks.prepare import ROOT
from benchmarks.records import Place, Result, Work, record
from benchmarks.timing import MemoryWatch, Timing, wait_for
from trsr.errors import ModelError
from trsr.machine import peak_resident
from trsr.models.settings import ModelSettings
from trsr.progress import Progress


def bench_memory(settings: ModelSettings, options: TrainOptions, progress: Progress) -> Result:
    """Trains a few steps in a process that does nothing else.

    Args:
        settings: The model's.
        options: The cases and their tokens, the loss, and how many steps are timed.
        progress: Shows that it is done.

    Raises:
        ModelError: If the process fails, with what it said.
    """
    progress.begin(1, "processes")
    words = ["-m", "benchmarks.memory", settings.model_dump_json(), json.dumps(asdict(options))]
    done = subprocess.run(  # noqa: S603 - our own module
        [sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise ModelError(f"training in a process of its own failed: {last[0]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    progress.advance(1)
    timing = Timing(found["seconds"], found["peak"])
    work = Work(options.cases, *(found[key] for key in ("prompts", "tokens", "distinct")))
    name = f"{options.prefix}+{1 + options.negatives}x{options.rest}"
    place = Place(found["device"], found["dtype"])
    notes = [f"{part}: {size / 2**20:,.0f} MiB" for part, size in found["parts"].items()]
    return Result(
        f"train alone, {name}: {options.cases} cases a step, steps with the optimizer's move",
        (record("train", f"{name}/tree/alone", place, timing, work, 1.0),),
        tuple(notes),
    )


def measure(settings: ModelSettings, options: TrainOptions) -> dict[str, Any]:
    """Trains and measures, in this process.

    Returns:
        Each step's seconds, the peak in bytes, and the parts it is made of: those that can be
        counted, and what is left. On a GPU the peak is the device's.
    """
    from benchmarks.train import LORA, synthetic_cases
    from trsr.training.start import isolated_random_state, open_trainable
    from trsr.training.step import Schedule, TrainingStep

    before = peak_resident() or 0
    opened = open_trainable(settings, "the bench trains it")
    network, device = opened.network, opened.device.type
    opening = peak_resident() or 0
    weights = _stored([*network.parameters(), *network.buffers()])
    steps = options.repeats + 2
    made = synthetic_cases(
        int(network.config.vocab_size),
        cases=options.cases * steps,
        prefix=options.prefix,
        candidates=1 + options.negatives,
        rest=options.rest,
        seed=options.seed,
    )
    of = LORA.model_copy(update={"loss": options.loss, "cases_per_step": options.cases})
    step = TrainingStep(
        network,
        made,
        Schedule(len(made), of, options.seed),
        of,
        base="bench",
        batch_tokens=opened.settings.batch_tokens,
        seed=options.seed,
    )
    seconds: list[float] = []
    with isolated_random_state(opened.device):
        watch = MemoryWatch(device)
        for number in range(1, steps):
            started = time.perf_counter()
            result = step.run(number)
            wait_for(device)
            seconds.append(time.perf_counter() - started)
        peak = watch.peak() or 0
        frozen = {one.untyped_storage().data_ptr() for one in network.parameters()}
        kept = _kept(lambda: step.run(steps), frozen)
    adapter = _stored(step.adapter.parameters.values())
    parts = {
        "libraries": before if device == "cpu" else 0,
        "the base model's weights": weights,
        "LoRA, its gradient and the optimizer's moments": 4 * adapter,
        "activations kept for the way back, of the largest pass": kept,
    }
    parts["what a layer computes with, and holes between"] = peak - sum(parts.values())
    parts["while the model is opened, beside libraries and weights"] = opening - before - weights
    return {
        "seconds": seconds[1:],
        "peak": peak,
        "parts": parts,
        "device": device,
        "dtype": str(next(network.parameters()).dtype).removeprefix("torch."),
        "prompts": options.cases * (1 + options.negatives),
        "tokens": result.tokens,
        "distinct": options.cases * made[0].distinct_tokens,
    }


def _stored(tensors: Iterable[Any]) -> int:
    """Bytes of some tensors; those that share memory count once."""
    every = {one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in tensors}
    return sum(every.values())


def _kept(work: Any, frozen: Collection[int]) -> int:
    """The most bytes at one time of what a backward pass needs, beside what is at `frozen`."""
    import torch

    held: dict[int, list[int]] = {}
    now = most = 0

    def pack(tensor: Any) -> Any:
        nonlocal now, most
        storage = tensor.untyped_storage()
        if storage.data_ptr() in frozen:
            return tensor
        entry = held.setdefault(storage.data_ptr(), [0, storage.nbytes()])
        now += 0 if entry[0] else entry[1]
        entry[0] += 1
        most = max(most, now)
        return _Kept(tensor.detach(), storage.data_ptr(), release)

    def release(place: int) -> None:
        nonlocal now
        held[place][0] -= 1
        if not held[place][0]:
            now -= held.pop(place)[1]

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda one: getattr(one, "tensor", one)):
        work()
    return most


class _Kept:
    """A tensor that says when the backward pass lets it go."""

    def __init__(self, tensor: Any, place: int, release: Any) -> None:
        self.tensor, self._place, self._release = tensor, place, release

    def __del__(self) -> None:
        self._release(self._place)


def main(settings: str, options: str) -> None:
    """Prints one JSON object.

    Args:
        settings: `ModelSettings` as JSON.
        options: `TrainOptions` as JSON.
    """
    read = TrainOptions(**json.loads(options))
    sys.stdout.write(json.dumps(measure(ModelSettings.model_validate_json(settings), read)) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
