"""Processes that are forked from one which has imported what they need.

A new one imports torch, transformers and peft for six seconds of a core before it does anything. A
fork's arguments are pickled as those of a new process are, and nothing was computed before it.
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from multiprocessing import forkserver, reduction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest


@functools.cache
def forks() -> Any:
    """In place of `multiprocessing.get_context("spawn")`, which it is where systems do not fork."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["imported"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        patch.setenv("OMP_NUM_THREADS", "1")  # of all forks: tiny models gain nothing by more
        forkserver.ensure_running()
    return context


@contextlib.contextmanager
def forked_workers() -> Iterator[None]:
    """Within it, new workers of the local engine are forks."""
    given = SimpleNamespace(get_context=lambda _: forks())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trsr.engine.local.multiprocessing", given)
        yield


class _End:
    """An end of a pipe, which goes along to another process."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> Any:
        return _received, (reduction.DupFd(self.number),)


def _received(end: Any) -> _End:
    return _End(end.detach())


def _begin(main: Callable[[], None], asked: _End, answered: _End) -> None:
    os.dup2(asked.number, 0)
    os.dup2(answered.number, 1)
    os.close(asked.number)
    os.close(answered.number)
    sys.stdin, sys.stdout = os.fdopen(0), os.fdopen(1, "w")
    main()


class ForkedPopen:
    """What `subprocess.Popen` is of a program with two pipes, of a function in a fork.

    Args:
        main: What the fork does; the pipes are its standard input and output.
    """

    def __init__(self, main: Callable[[], None]) -> None:
        theirs_in, ours_in = os.pipe()
        ours_out, theirs_out = os.pipe()
        self._process = forks().Process(
            target=_begin, args=(main, _End(theirs_in), _End(theirs_out))
        )
        self._process.start()
        os.close(theirs_in)
        os.close(theirs_out)
        self.stdin, self.stdout = os.fdopen(ours_in, "w"), os.fdopen(ours_out)

    def poll(self) -> int | None:
        code: int | None = self._process.exitcode
        return code

    def kill(self) -> None:
        self._process.kill()

    def wait(self) -> int:
        self._process.join()
        return int(self._process.exitcode)
