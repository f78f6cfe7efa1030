"""What kind of machine this is and how much memory it took, without a name or a path of it."""

from __future__ import annotations

import ctypes
import datetime
import os
import platform
import sys
from pathlib import Path
from typing import Any

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


def processor() -> str:
    """The processor's kind, as the system names it."""
    return cpuinfo("model name") or platform.processor() or platform.machine()


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpuinfo(key: str) -> str:
    """The first processor's entry; empty where the system keeps none."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        return ""
    pairs = (line.partition(":") for line in lines)
    return next((value.strip() for name, _, value in pairs if name.strip() == key), "")


def gpu() -> str:
    """The GPU's kind where this process has opened torch and there is one; else empty."""
    torch = _torch_on_cuda()
    return "" if torch is None else str(torch.cuda.get_device_name())


def memory() -> int:
    """Bytes of memory of this machine; 16 GiB where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows
        return 2**34


def peak_resident() -> int | None:
    """The process's largest resident size, in bytes; None where the system does not say."""
    try:
        lines = _STATUS.read_text("utf-8").splitlines()
        line = next(line for line in lines if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    except (OSError, StopIteration):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def forget_peak() -> None:
    """Lets the process's largest resident size begin anew, where the system can."""
    try:
        _CLEAR.write_text("5")  # proc(5): resets the peak resident size
    except OSError:
        return


def give_back_memory() -> None:
    """Gives memory that is free, but kept by the C library, back to the system.

    Passes of ever other sizes leave holes that the next one does not fit into, and what is kept
    grows with every step. Does nothing where the C library is not glibc.
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


class ResourceUsage:
    """Tells afterwards when, on what kind of machine and in how much memory work was done.

    Where the system cannot forget an earlier peak, the memory is that of the process's whole life.
    """

    def __init__(self) -> None:
        forget_peak()
        torch = _torch_on_cuda()
        if torch is not None:
            torch.cuda.reset_peak_memory_stats()

    def tell(self) -> dict[str, Any]:
        """Plain values: `at` (UTC), `on`, `gpu` (empty: none was used) and peak bytes."""
        torch = _torch_on_cuda()
        return {
            "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "on": f"{processor()}, {cores()} {'core' if cores() == 1 else 'cores'}",
            "gpu": gpu(),
            "peak_memory_bytes": peak_resident(),
            "peak_gpu_bytes": None if torch is None else int(torch.cuda.max_memory_allocated()),
        }


def _torch_on_cuda() -> Any:
    """Torch, where the work has opened it and it finds a GPU: a witness loads no library itself."""
    torch: Any = sys.modules.get("torch")
    return torch if torch is not None and torch.cuda.is_available() else None
