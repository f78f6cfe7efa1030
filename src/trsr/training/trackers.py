"""Sends the curves to other programs: TensorBoard files, MLflow, Weights & Biases."""

from __future__ import annotations

import importlib
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from trsr.errors import ConfigError
from trsr.storage import files
from trsr.training.curves import Row

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

    Args:
        names: Names of `TRACKERS`.
        folder: Where trackers keep their files.
        settings: The run's settings, shown beside the curves.
        rows: Rows of earlier sittings.
        sent: The last step that an earlier sitting sent.

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
