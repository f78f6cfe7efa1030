"""The command line: parsing, progress bars, one-line errors, exit codes."""

from __future__ import annotations

import codecs
import contextlib
import ctypes
import gc
import io
import json
import logging
import os
import platform
import sys
from collections.abc import Iterator

from trsr import machine

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8  # glibc's malloc.h


def keep_freed_memory() -> None:
    """Asks glibc to keep what is freed instead of giving it back to the system at once.

    A forward pass on a CPU frees and asks for the same hundreds of megabytes layer by layer; on a
    virtual machine the page faults of that cost several percent of the time. As each arena keeps
    its own, threads share as many as there are cores. Where the C library is another one, or a
    `MALLOC_` variable is set, nothing is changed.
    """
    if platform.libc_ver()[0] != "glibc" or any(name.startswith("MALLOC_") for name in os.environ):
        return
    tune = ctypes.CDLL(None).mallopt
    tune(_MMAP_MAX, 0)
    tune(_TRIM_THRESHOLD, 2**31 - 1)
    tune(_TOP_PAD, 2**26)
    tune(_ARENA_MAX, max(2, machine.cores()))


def sleep_while_waiting() -> None:
    """Lets torch's threads sleep where they wait for each other, after a short spin.

    By default GNU's OpenMP spins for a millisecond or more. Where another program holds one of the
    cores, that takes the time of the thread that is waited for: beside a busy program torch
    computed a third as much. Where the environment says how to wait, nothing is changed. Processes
    that start later inherit it.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = "1000"


@contextlib.contextmanager
def starting() -> Iterator[None]:
    """Looks for no garbage while modules are imported and settings are made.

    Nearly all that these make lives as long as the process, and stays out of later searches, the
    last one too: they took a fifth of the time of `trsr check`.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def open_streams() -> None:
    r"""Lets the output streams take any text, also where they are ASCII, or closed.

    A character that a stream cannot say is spelled out as in JSON, such as `\u2026`.
    """
    codecs.register_error("trsr.spelled", _spelled)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, io.StringIO())
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="trsr.spelled")


def _spelled(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


def main() -> None:
    """Runs the command line; exits with 0, with 2 for what people can mend, 130 when stopped."""
    open_streams()
    with starting():
        from trsr.cli.app import app
        from trsr.cli.terminal import Bar, LogLines, complain
        from trsr.errors import TrsrError
        from trsr.storage.addresses import watch_transfers

    keep_freed_memory()
    sleep_while_waiting()
    logging.getLogger("trsr").addHandler(LogLines())
    # what opens a model waits a while, and says so
    logging.getLogger("trsr.models").setLevel(logging.INFO)
    watch_transfers(Bar)
    try:
        app()
    except TrsrError as error:
        if sys.flags.dev_mode:  # to mend a part, one needs to see where
            raise
        complain(str(error))
        sys.exit(2)
    except ModuleNotFoundError as error:
        from trsr.registry import how_to_install

        complain(how_to_install(error))
        sys.exit(2)
    except OSError as error:
        name = f"{error.filename}: " if error.filename else ""
        complain(f"{name}{error.strerror or error}")
        sys.exit(2)
    except KeyboardInterrupt:
        complain("stopped; the same command continues the work")
        sys.exit(130)
