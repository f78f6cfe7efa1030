"""The curves of a training run: one JSON line a step and a validation."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from trsr.storage import files

FILE = "curves.jsonl"

Row = Mapping[str, Any]


class Curves:
    """The file of curves, opened to continue after a step.

    A row of a step holds `step`, `epoch`, `loss`, `learning_rate`, `grad_norm`, `cases`, `tokens`,
    `distinct_tokens` and `seconds` (from the run's start); a row of a validation holds `step`,
    `validation` (metric → value) and `seconds`.

    Args:
        path: The file; made where it is absent.
        step: The last step to keep. Rows of later steps are dropped, as those steps will be made
            again; so is a torn last line.

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

FEWEST = 5
"""With fewer late steps than this we don't judge."""

NEAR = 0.95
"""A late loss above this share of the chance loss means that training hardly converged.

Of the single trainings in benchmarks/recipes/ablations_ml100k.toml those that rank with an AUC of
.69 and more ended at .80 to .91 of it, and those that stayed at .65 at .93 to .98.
"""


def chance_loss(loss: str, cases: Sequence[tuple[int, int]]) -> float | None:
    """The lowest mean loss of a model that answers the same for every candidate.

    Args:
        loss: As `train.loss` names it.
        cases: (candidates, relevant candidates) of each case.

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
    late = losses[-(len(losses) // LATE) :] if len(losses) >= LATE * FEWEST else ()
    return math.fsum(late) / len(late) if late else None


def hardly_converged(late: float | None, chance: float | None) -> bool:
    """Whether a training is known to have ended near the chance loss."""
    return late is not None and chance is not None and late > NEAR * chance
