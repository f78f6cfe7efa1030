"""How the process holds memory: freed tensors' pages are kept for the next ones."""

from __future__ import annotations

import ctypes
import os
import platform

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
