"""`python -m benchmarks overhead`: the share of a stage's time that is not the model's."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.options import OverheadOptions
from benchmarks.records import Place, Record, Result, Work, record, speed_ratio
from benchmarks.timing import Clock, MemoryWatch, Timing, watching
from trsr.config import Config
from trsr.data import located
from trsr.models.settings import ModelSettings
from trsr.pipeline import Outcome, run_prepare, run_rank, run_summarize, run_train
from trsr.progress import Progress

STAGES: dict[str, Callable[[Config], Outcome]] = {
    "summarize": run_summarize,
    "rank": run_rank,
}


def bench_overhead(
    name: str, config: Config, options: OverheadOptions, progress: Progress
) -> Result:
    """Runs the real stages over a configuration's data with a clock on the model.

    Each repeat has a run directory and an output store of its own, and opens its models anew;
    opening them counts neither as the model's time nor as the stage's. The stage's way to do the
    work is compared with the model alone: `ratio` is the model's share, and what is missing to 1
    is the overhead.

    Args:
        name: Of the data.
        config: All settings; `rank` ranks with the model as it came.
        options: Test queries, and repeats.
        progress: Shows each run.

    Raises:
        TrsrError: If the model or the data cannot be used.
    """
    repeats, queries = options.repeats, options.queries
    wanted = [stage for stage in STAGES if stage == "rank" or config.summarize.strategy != "none"]
    whole = {stage: Timing() for stage in wanted}
    model = {stage: Timing() for stage in wanted}
    progress.begin(repeats + 1, "runs")
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as folder:
        for number in range(repeats + 1):
            run = _aside(config, Path(folder), number, queries if number else min(queries, 2))
            run_prepare(run)
            if "summarize" not in wanted:
                run_summarize(run)
            for stage in wanted:
                if stage == "rank":
                    run_train(run)
                took, clock, memory, outcome = _timed(STAGES[stage], run)
                if number:  # the first one warms up
                    whole[stage].seconds.append(took)
                    whole[stage].peak_memory = max(memory or 0, whole[stage].peak_memory or 0)
                    model[stage].seconds.append(clock.seconds)
                    whole[stage].result = outcome.info
            progress.advance(1)
    return _result(name, config, whole, model)


def _aside(config: Config, folder: Path, number: int, queries: int) -> Config:
    """The configuration with a run directory of its own, few cases, and nothing trained."""
    few = {"train_users": 1, "valid_cases": 1, "test_cases": queries, "dataset": ""}
    data = located(config.data)
    changed: dict[str, Any] = {
        "data": data.model_copy(update=few),
        "train": config.train.model_copy(update={"epochs": 0}),
        "rank": config.rank.model_copy(update={"rankers": ("llm_zero_shot",)}),
        "run": config.run.model_copy(
            update={"folder": folder / f"run-{number}", "cache": folder / f"{number}.sqlite"}
        ),
    }
    return config.model_copy(update=changed)


def _timed(
    stage: Callable[[Config], Outcome], config: Config
) -> tuple[float, Clock, int | None, Outcome]:
    clock, memory = Clock(), MemoryWatch("cpu")
    started = time.perf_counter()
    with watching(clock):
        outcome = stage(config)
    took = time.perf_counter() - started - clock.loading
    return took, clock, memory.peak(), outcome


def _result(
    name: str, config: Config, whole: dict[str, Timing], model: dict[str, Timing]
) -> Result:
    records: list[Record] = []
    notes = []
    for stage, timing in whole.items():
        settings = config.summarizer if stage == "summarize" else config.model
        place = _place(settings)
        prompts = asked(timing.result)
        work, alone = Work(prompts, prompts), model[stage]
        for kind, one in (("model", alone), ("stage", timing)):
            ratio = speed_ratio(one, work, alone, work)
            records.append(record("overhead", f"{name}/{stage}/{kind}", place, one, work, ratio))
        share = 1 - alone.median / timing.median
        each = (timing.median - alone.median) / max(prompts, 1) * 1000
        notes.append(
            f"{stage}: {share:.1%} of the time is not the model's ({settings.backend}), "
            f"{each:.2f} ms a prompt"
        )
    return Result(
        f"overhead, {name}: the model's time beside the stage's", tuple(records), tuple(notes)
    )


def _place(settings: ModelSettings) -> Place:
    """Where a stage's model ran, without opening it again."""
    if settings.backend != "transformers":
        return Place("cpu", settings.dtype)
    from trsr.models.hf.load import pick_device, pick_dtype

    device = pick_device(settings)
    return Place(device.type, str(pick_dtype(settings, device)).removeprefix("torch."))


def asked(info: dict[str, Any]) -> int:
    """The prompts that a stage put to its model, by what it reported."""
    if "asked" in info:
        return int(info["asked"])
    return sum(int(one["written"]) for one in info["models"].values())
