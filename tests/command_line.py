"""`trsr` with some arguments, in this process: what it prints, and its exit code."""

from __future__ import annotations

import contextlib
import io
import logging
from pathlib import Path
from typing import NamedTuple

import pytest


class Called(NamedTuple):
    """What a command came to."""

    returncode: int
    stdout: str
    stderr: str


def trsr(*words: object, cwd: Path, code: int = 0) -> Called:
    """Calls `trsr` in a folder, on a terminal of 200 columns.

    Args:
        words: The arguments.
        cwd: The folder, which is the user's home too.
        code: What it has to exit with.
    """
    from trsr.bars import err
    from trsr.cli import main

    out, said = io.StringIO(), io.StringIO()
    logger = logging.getLogger("trsr")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(cwd)
        patch.setenv("HOME", str(cwd))
        patch.setattr("sys.argv", ["trsr", *map(str, words)])
        patch.setattr(err, "_width", 200)
        # what a process does for itself
        patch.setattr("trsr.storage.addresses.WATCHERS", [])
        patch.setattr(logger, "handlers", list(logger.handlers))
        patch.setattr("trsr.cli.keep_freed_memory", lambda: None)
        patch.setattr("trsr.cli.sleep_while_waiting", lambda: None)
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(said),
            pytest.raises(SystemExit) as ended,
        ):
            main()
    logging.getLogger("trsr.models").setLevel(logging.NOTSET)
    found = Called(int(ended.value.code or 0), out.getvalue(), said.getvalue())
    assert found.returncode == code, found
    return found
