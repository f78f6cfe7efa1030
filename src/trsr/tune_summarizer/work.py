"""The output folder while it is being made: what is done, and what it was done with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trsr.errors import StaleRunError, StoreError
from trsr.pipeline.stair import differences
from trsr.store.rundir import RunDirectory, explained, write_atomic
from trsr.tune_summarizer.keeping import Kept, read_kept, write_kept
from trsr.tune_summarizer.result import Round

RESULT = "summarizer.json"
PAGE = "summarizer.md"
TEXTS = "kept.jsonl"
_OURS = frozenset({RESULT, PAGE, TEXTS, ".work", ".lock"})


class Work:
    """One output folder.

    While rounds are made they lie in `.work/round-N/`: `state/` of the training, `adapter/`, the
    merged model in `model/`, `kept.jsonl`, and `round.json`, which is written last. The result is
    copied from there, and `summarizer.json` is written last of all: a kill leaves what was done.

    Args:
        folder: The output folder.
        settings: What the result depends on, as plain values.

    Raises:
        StaleRunError: If the folder holds what was made with other settings.
        StoreError: If it holds something else, or cannot be read or written.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder = folder
        self.settings = json.loads(json.dumps(settings))
        self._work = folder / ".work"
        known = self._settings_of(folder / RESULT) or self._settings_of(
            self._work / "settings.json"
        )
        if known is not None:
            self._check(known)
        elif folder.is_dir() and any(path.name not in _OURS for path in folder.iterdir()):
            raise StoreError(
                f"{folder}: is not empty, and holds no tuned summarizer; choose another --out"
            )
        else:
            with explained(folder):
                write_atomic(self._work / "settings.json", json.dumps({"settings": self.settings}))

    def done(self) -> dict[str, Any] | None:
        """The finished result as `finish` wrote it; None where it is not finished."""
        path = self.folder / RESULT
        if not path.is_file():
            return None
        shutil.rmtree(self._work, ignore_errors=True)
        found: dict[str, Any] = json.loads(path.read_text("utf-8"))
        return found

    def round(self, number: int) -> tuple[Round, dict[str, Kept]] | None:
        """A finished round, and the samples kept so far; None where it is not finished."""
        path = self.place(number) / "round.json"
        if not path.is_file():
            return None
        try:
            found = Round(**json.loads(path.read_text("utf-8")))
        except (ValueError, TypeError) as error:
            raise StoreError(f"{path}: cannot be read ({error}); remove it to go on") from error
        return found, read_kept(self.place(number) / TEXTS)

    def place(self, number: int) -> Path:
        """A round's folder."""
        return self._work / f"round-{number}"

    def model(self, number: int) -> Path:
        """A round's merged model.

        It is called as the output folder is: the store and the backends' caches know a model by
        its folder's name and its files, and the result then is the model that was measured.
        """
        return self.place(number) / "model" / self.folder.name

    def finish_round(self, round_: Round, kept: Mapping[str, Kept]) -> None:
        """Writes a round down."""
        with explained(self.folder):
            write_kept(self.place(round_.number) / TEXTS, kept)
            value = json.dumps(asdict(round_), indent=1, ensure_ascii=False)
            write_atomic(self.place(round_.number) / "round.json", value)

    def finish(self, kept: int, value: Mapping[str, Any], page: str) -> None:
        """Puts the result into the folder; what led to it goes.

        Args:
            kept: The round that is kept; 0: none, and no model is written.
            value: For `summarizer.json`.
            page: The page in Markdown.
        """
        with explained(self.folder):
            if kept:
                self._copy(kept)
            write_atomic(self.folder / PAGE, page)
            told = {**value, "settings": self.settings}
            write_atomic(self.folder / RESULT, json.dumps(told, indent=1, ensure_ascii=False))
        shutil.rmtree(self._work, ignore_errors=True)

    def _copy(self, kept: int) -> None:
        source = self.place(kept)
        shutil.copytree(source / "adapter", self.folder / "adapter", dirs_exist_ok=True)
        shutil.copyfile(source / TEXTS, self.folder / TEXTS)
        # config.json last: a folder that has it is taken for a model
        for path in sorted(self.model(kept).iterdir(), key=lambda path: path.name == "config.json"):
            shutil.copyfile(path, self.folder / path.name)

    def _settings_of(self, path: Path) -> dict[str, Any] | None:
        if not path.is_file():
            return None
        try:
            found: dict[str, Any] = json.loads(path.read_text("utf-8"))["settings"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(
                f"{path}: cannot be read ({error}); remove the folder to begin anew"
            ) from error
        return found

    def _check(self, known: Mapping[str, Any]) -> None:
        changed = differences(known, self.settings)
        if changed:
            raise StaleRunError(
                f"{self.folder} was begun with other settings: {'; '.join(changed)}; choose "
                "another --out, remove it, or go back to those settings"
            )


def locked(folder: Path) -> Any:
    """Keeps other writers out of the output folder."""
    return RunDirectory(folder).locked()
