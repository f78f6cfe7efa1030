"""Training curves: kept, judged by the chance loss, and sent to other programs."""

from __future__ import annotations

import importlib
import json
import logging
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from trsr.errors import ConfigError
from trsr.storage import files

FILE = "curves.jsonl"

Row = Mapping[str, Any]


class Curves:
    """The file of curves, opened to continue after a step.

    A row of a step holds `step`, `epoch`, `loss`, `learning_rate`, `grad_norm`, `cases`, `tokens`,
    `distinct_tokens` and `seconds` (from the run's start); a row of a validation holds `step`,
    `validation` (metric → value) and `seconds`. Rows after the last step to keep are dropped, as
    those steps will be made again; so is a torn last line.

    Attributes:
        rows: All rows so far, in order.
        dropped: The last step of the rows that were dropped; 0 where none was.
    """

    def __init__(self, path: Path, step: int) -> None:
        kept, dropped = _read(path, step)
        self.rows: list[Row] = kept
        self.dropped = dropped
        files.write_text(path, "".join(f"{json.dumps(row)}\n" for row in kept))
        self._file = files.open_append(path)

    def add(self, row: Row) -> None:
        """Writes one row."""
        self.rows.append(row)
        self._file.write(f"{json.dumps(row)}\n")
        self._file.flush()

    def sync(self) -> None:
        """Brings the rows to the disk; called before a state is saved."""
        files.flush(self._file)

    def __enter__(self) -> Curves:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()


def _read(path: Path, step: int) -> tuple[list[Row], int]:
    """Rows up to a step, and the last step beyond it."""
    if not files.exists(path):
        return [], 0
    kept: list[Row] = []
    dropped = 0
    for line in files.read_text(path, errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:  # the line that a kill cut off
            continue
        if row["step"] <= step:
            kept.append(row)
        else:
            dropped = max(dropped, row["step"])
    return kept, dropped


LATE = 5
"""The late steps are the last of this many equal parts."""

JUDGED = 5 * LATE
"""With fewer steps, and so fewer than five late ones, we don't judge: their mean says little."""

NEAR = 0.95
"""A late loss above this share of the chance loss means that training hardly converged.

Of the single trainings in benchmarks/recipes/ablations_ml100k.toml those that rank with an AUC of
.69 and more ended at .80 to .91 of it, and those that stayed at .65 at .93 to .98.
"""


def chance_loss(loss: str, cases: Sequence[tuple[int, int]]) -> float | None:
    """The lowest mean loss of a model that answers the same for every candidate.

    Cases are (candidates, relevant candidates).

    Returns:
        Nats; None without cases, or where it depends on the words (the loss over the text).
    """
    if not cases:
        return None
    if loss == "listwise":
        return math.fsum(math.log(candidates) for candidates, _ in cases) / len(cases)
    if loss == "answer":  # every case weighs the same, however many candidates it has
        yes = math.fsum(relevant / candidates for candidates, relevant in cases) / len(cases)
        return -math.fsum(part * math.log(part) for part in (yes, 1 - yes) if part > 0)
    return None


def late_loss(losses: Sequence[float]) -> float | None:
    """The mean loss of the last fifth of the steps; None where these are fewer than five."""
    late = losses[-(len(losses) // LATE) :] if len(losses) >= JUDGED else ()
    return math.fsum(late) / len(late) if late else None


def hardly_converged(late: float | None, chance: float | None) -> bool:
    """Whether a training is known to have ended near the chance loss."""
    return late is not None and chance is not None and late > NEAR * chance


log = logging.getLogger(__name__)


class Tracker(Protocol):
    """One program that is sent the curves."""

    def send(self, row: Row) -> None:
        """Sends one row of the curves."""

    def close(self) -> None:
        """Sends what is still held back."""


class TensorBoard:
    """Event files in `<folder>/tensorboard`, written anew from the curves after a stop."""

    def __init__(
        self, folder: Path, settings: Mapping[str, Any], rows: Sequence[Row], sent: int
    ) -> None:
        module = _library("torch.utils.tensorboard", "tensorboard")
        files.remove(folder / "tensorboard")
        self._writer = module.SummaryWriter(str(folder / "tensorboard"))
        for name, value in settings.items():
            self._writer.add_text(name, str(value))
        for row in rows:
            self.send(row)

    def send(self, row: Row) -> None:
        """Adds a row's numbers."""
        for name, value in numbers(row):
            self._writer.add_scalar(name, value, row["step"])

    def close(self) -> None:
        """Writes what is held back."""
        self._writer.close()


class MLflow:
    """A run of MLflow, where its own settings (`MLFLOW_TRACKING_URI`, …) say."""

    def __init__(
        self, folder: Path, settings: Mapping[str, Any], rows: Sequence[Row], sent: int
    ) -> None:
        self._mlflow = _library("mlflow", "mlflow")
        self._sent = sent
        known = folder / "mlflow_run.txt"
        try:
            if files.exists(known):
                self._mlflow.start_run(run_id=files.read_text(known))
                return
            self._mlflow.set_experiment("trsr")
            run = self._mlflow.start_run()
            files.write_text(known, run.info.run_id)
            self._mlflow.log_params({name: str(value) for name, value in settings.items()})
        except Exception as error:
            raise ConfigError(
                f"train.trackers: mlflow cannot begin a run ({error}); check its tracking address, "
                "or take mlflow out of train.trackers"
            ) from error

    def send(self, row: Row) -> None:
        """Logs a row's numbers, unless an earlier sitting has."""
        if row["step"] <= self._sent:
            return
        # MLflow refuses an @ in a metric's name.
        named = {re.sub(r"[^\w\-. /:]", "_", name): value for name, value in numbers(row)}
        self._mlflow.log_metrics(named, step=row["step"])

    def close(self) -> None:
        """Ends the run."""
        self._mlflow.end_run()


class WeightsAndBiases:
    """A run of Weights & Biases in the project `trsr`; `WANDB_MODE=offline` keeps it here."""

    def __init__(
        self, folder: Path, settings: Mapping[str, Any], rows: Sequence[Row], sent: int
    ) -> None:
        wandb = _library("wandb", "wandb")
        self._sent = sent
        known = folder / "wandb_run.txt"
        before = files.read_text(known) if files.exists(known) else None
        try:
            self._run = wandb.init(
                project="trsr", id=before, resume="allow", dir=str(folder), config=dict(settings)
            )
        except Exception as error:
            raise ConfigError(
                f"train.trackers: wandb cannot begin a run ({error}); log in with `wandb login`, "
                "set WANDB_MODE=offline, or take wandb out of train.trackers"
            ) from error
        files.write_text(known, self._run.id)

    def send(self, row: Row) -> None:
        """Logs a row's numbers, unless an earlier sitting has."""
        if row["step"] > self._sent:
            self._run.log({**dict(numbers(row)), "step": row["step"]})

    def close(self) -> None:
        """Ends the run."""
        self._run.finish()


TRACKERS: Mapping[str, type[TensorBoard] | type[MLflow] | type[WeightsAndBiases]] = {
    "tensorboard": TensorBoard,
    "mlflow": MLflow,
    "wandb": WeightsAndBiases,
}


class Trackers:
    """All trackers asked for. One that fails later is named in the log and left out.

    `sent` is the last step that an earlier sitting sent.

    Raises:
        ConfigError: If a tracker's library is not installed or it cannot begin.
    """

    def __init__(
        self,
        names: Sequence[str],
        folder: Path,
        settings: Mapping[str, Any],
        rows: Sequence[Row],
        sent: int,
    ) -> None:
        self._trackers: dict[str, Tracker] = {
            name: TRACKERS[name](folder, settings, rows, sent) for name in names
        }

    def send(self, row: Row) -> None:
        """Sends one row of the curves to each tracker."""
        for name, tracker in list(self._trackers.items()):
            try:
                tracker.send(row)
            except Exception as error:  # a curve is not worth a training run
                log.warning(
                    "the tracker %s failed at step %s and is left out (%s); "
                    "curves.jsonl holds every row",
                    name,
                    row["step"],
                    error,
                )
                del self._trackers[name]

    def close(self) -> None:
        """Closes each tracker."""
        for name, tracker in self._trackers.items():
            try:
                tracker.close()
            except Exception as error:
                log.warning("the tracker %s did not close (%s)", name, error)


def numbers(row: Row) -> Iterator[tuple[str, float]]:
    """The numbers of a row by name: `train/loss`, `validation/recall@3`."""
    if "validation" in row:
        for name, value in row["validation"].items():
            if value is not None:
                yield f"validation/{name}", value
        return
    for name, value in row.items():
        if name != "step":
            yield f"train/{name}", value


def _library(module: str, extra: str) -> Any:
    """Imports a tracker's library."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"train.trackers: {extra} is not installed; install it with "
            f"`pip install 'trsr[{extra}]'`, or take it out of train.trackers"
        ) from error
