"""The training loop: steps, validations, states and curves, from the start or from a state."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trsr.errors import ConfigError
from trsr.machine import give_back_memory
from trsr.progress import Progress
from trsr.storage import files
from trsr.training.fit import TrainResult
from trsr.training.group import Group
from trsr.training.settings import SELECTED_ON, TrainSettings
from trsr.training.state import Counts, State, Weights, load, save
from trsr.training.step import Schedule, TrainingStep
from trsr.training.trackers import FILE, Curves, Row, Trackers

KEEP_AFTER = 60.0
"""Seconds after which a state is kept before its step: a stopped training loses a minute."""
KEEP_SHARE = 0.05
"""Of the time, at most, goes into states that are kept before their step."""

Validate = Callable[[], Mapping[str, float]]


class Trainer:
    """One training run.

    A state of another identity is refused. Of several workers the leading one alone validates, and
    writes states and results.
    """

    def __init__(
        self,
        step: TrainingStep,
        schedule: Schedule,
        settings: TrainSettings,
        *,
        identity: Mapping[str, Any],
        folder: Path,
        validate: Validate | None,
        progress: Progress,
        unit: str = "steps",
        group: Group | None = None,
    ) -> None:
        self._group = group or Group()
        self._training_step = step
        self._schedule = schedule
        self._settings = settings
        self._identity = identity
        self._folder = folder
        self._validate = validate if settings.validate_steps else None
        self._progress = progress
        self._unit = unit
        self._step = 0
        self._counts = Counts()
        self._best: Weights = {}
        self._began = 0.0
        self._earlier = 0.0
        self._kept = 0.0
        self._keeping = 0.0

    def run(self, out: Path) -> TrainResult:
        """Trains to the end and writes the adapter and the curves into `out`.

        Raises:
            ModelError: If a loss is not finite.
            StaleRunError: If the state was made with other settings.
            StoreError: If a state cannot be read or written.
        """
        leads = self._group.rank == 0
        folder = self._folder if leads else self._folder / f"worker-{self._group.rank}"
        files.make_folder(folder)
        self._resume()
        with Curves(folder / FILE, self._step) as curves:
            names, identity = self._settings.trackers if leads else (), self._identity
            trackers = Trackers(names, folder, identity, curves.rows, curves.dropped)
            with contextlib.closing(trackers):

                def record(row: Row) -> None:
                    curves.add(row)
                    trackers.send(row)

                while not self._done():
                    note = self._advance(record)
                    if leads and (self._state_due() or self._done()):
                        curves.sync()
                        self._keep_state()
                    self._progress.advance(1, note)
            return self._finish(out, curves.rows, write=leads)

    def _resume(self) -> None:
        self._progress.begin(self._schedule.steps, self._unit)
        if self._group.rank:  # behind the leading one, which tidies up
            self._group.wait()
        state = load(self._folder, self._identity)
        if not self._group.rank:
            self._group.wait()
        if state is not None:
            self._training_step.restore(state.adapter, state.moments)
            self._step, self._counts, self._best = state.step, state.counts, state.best
            self._progress.advance(state.step, f"resuming after step {state.step}")
        self._earlier = self._counts.seconds
        self._kept = time.perf_counter()
        self._began = time.perf_counter() - self._earlier

    def _state(self) -> State:
        adapter, moments = self._training_step.adapter.weights(), self._training_step.moments
        return State(self._step, adapter, moments, self._best, self._counts)

    def _state_due(self) -> bool:
        late = time.perf_counter() - self._kept >= max(KEEP_AFTER, self._keeping / KEEP_SHARE)
        return late or self._due(self._settings.checkpoint_steps)

    def _keep_state(self) -> None:
        began = time.perf_counter()
        save(self._folder, self._state(), self._identity)
        give_back_memory()
        self._kept = time.perf_counter()
        self._keeping = self._kept - began

    def _due(self, every: int) -> bool:
        return self._ended() or self._step % every == 0

    def _ended(self) -> bool:
        return self._step == self._schedule.steps

    def _done(self) -> bool:
        return self._ended() or self._stopped_early()

    def _stopped_early(self) -> bool:
        return 0 < self._settings.patience <= self._counts.worse

    def _advance(self, record: Callable[[Row], None]) -> str:
        """Makes a step and the validation due after it; returns the note for the progress bar."""
        began = time.perf_counter()
        made = self._training_step.run(self._step + 1)
        self._counts.step_seconds += time.perf_counter() - began
        self._step += 1
        self._counts.cases += made.cases
        self._counts.tokens += made.tokens
        self._counts.distinct_tokens += made.distinct_tokens
        epoch = self._schedule.epoch(self._step)
        record({"step": self._step, "epoch": epoch, **asdict(made), "seconds": self._seconds()})
        if self._validate is not None and self._due(self._settings.validate_steps):
            validate = self._validate
            metrics = self._training_step.led(lambda: {k: float(v) for k, v in validate().items()})
            self._compare(metrics)
            # JSON has no NaN
            finite = {k: v if math.isfinite(v) else None for k, v in metrics.items()}
            record({"step": self._step, "validation": finite, "seconds": self._seconds()})
        best = self._counts.best_step
        return f"loss {made.loss:.3f}" + (f", best at step {best}" if best else "")

    def _seconds(self) -> float:
        self._counts.seconds = round(time.perf_counter() - self._began, 3)
        return self._counts.seconds

    def _compare(self, metrics: Mapping[str, float]) -> None:
        """Keeps the adapter if its metrics are the best so far."""
        missing = [name for name in SELECTED_ON if name not in metrics]
        if missing:
            raise ConfigError(
                f"the validation gives no {', '.join(missing)}; it gives "
                f"{', '.join(metrics) or 'nothing'}"
            )
        score = math.fsum(metrics[name] for name in SELECTED_ON)
        if not math.isfinite(score):
            score = -math.inf
        counts = self._counts
        if counts.best_score is None or score > counts.best_score:
            counts.best_step, counts.best_score, counts.worse = self._step, score, 0
            self._best = self._training_step.adapter.weights()
        else:
            counts.worse += 1

    def _finish(self, out: Path, rows: Sequence[Row], *, write: bool) -> TrainResult:
        adapter = self._training_step.adapter
        if write:
            adapter.write(out, self._best or adapter.weights())
            files.copy(self._folder / FILE, out / FILE)
            events = self._folder / "tensorboard"
            if files.exists(events):
                files.copy(events, out / "tensorboard")
        counts = self._counts
        return TrainResult(
            adapter=out,
            steps=self._step,
            cases=counts.cases,
            tokens=counts.tokens,
            distinct_tokens=counts.distinct_tokens,
            parameters=sum(p.numel() for p in adapter.parameters.values()),
            seconds=counts.seconds,
            losses=tuple(row["loss"] for row in rows if "loss" in row),
            validations=tuple((r["step"], r["validation"]) for r in rows if "validation" in r),
            best_step=counts.best_step or self._step,
            best_score=counts.best_score,
            stopped_early=self._step < self._schedule.steps,
            step_seconds=round(counts.step_seconds, 3),
            earlier_seconds=self._earlier,
        )
