"""The command line: parsing, progress bars, one-line errors, exit codes."""

from __future__ import annotations

import ctypes
import os
import platform
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # glibc's malloc.h


def keep_freed_memory() -> None:
    """Asks glibc to keep what is freed instead of giving it back to the system at once.

    A forward pass on a CPU frees and asks for the same hundreds of megabytes layer by layer; on a
    virtual machine the page faults of that cost several percent of the time. Where the C library
    is another one, or a `MALLOC_` variable is set, nothing is changed.
    """
    if platform.libc_ver()[0] != "glibc" or any(name.startswith("MALLOC_") for name in os.environ):
        return
    tune = ctypes.CDLL(None).mallopt
    tune(_MMAP_MAX, 0)
    tune(_TRIM_THRESHOLD, 2**31 - 1)
    tune(_TOP_PAD, 2**26)


def main() -> None:
    """Runs the command line; exits with 0, with 2 for what people can mend, 130 when stopped."""
    from trsr.cli.app import app
    from trsr.cli.terminal import complain
    from trsr.errors import TrsrError

    keep_freed_memory()
    try:
        app()
    except TrsrError as error:
        complain(str(error))
        sys.exit(2)
    except OSError as error:
        name = f"{error.filename}: " if error.filename else ""
        complain(f"{name}{error.strerror or error}")
        sys.exit(2)
    except KeyboardInterrupt:
        complain("stopped; the same command continues the work")
        sys.exit(130)
