"""The curves of a training run: one JSON line a step and a validation."""

from __future__ import annotations

import json
from collections.abc import Mapping
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
