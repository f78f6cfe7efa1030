"""What machine and which versions a bench ran on, without a name or a path of it."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

PACKAGES = ("trsr", "torch", "transformers", "peft", "polars", "numpy", "openvino-genai")
_FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16")


def machine() -> str:
    """The kind of machine in a line: processor, cores, what it multiplies fast, memory, GPU."""
    parts = [_processor(), f"{_cores()} cores"]
    flags = [flag for flag in _FLAGS if flag in _cpuinfo("flags").split()]
    parts += [" ".join(flags)] if flags else []
    parts += list(_memory())
    parts += list(_gpu())
    return ", ".join(parts)


def versions() -> str:
    """Python and the packages that do the work."""
    found = [f"Python {platform.python_version()}"]
    for name in PACKAGES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return ", ".join(found)


def _processor() -> str:
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpuinfo(key: str) -> str:
    """The first processor's entry; empty where the system keeps none."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        return ""
    pairs = (line.partition(":") for line in lines)
    return next((value.strip() for name, _, value in pairs if name.strip() == key), "")


def _memory() -> Iterator[str]:
    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return
    yield f"{size / 2**30:.0f} GiB"


def _gpu() -> Iterator[str]:
    try:
        import torch
    except ImportError:
        return
    if torch.cuda.is_available():
        yield torch.cuda.get_device_name()
    yield f"{torch.get_num_threads()} threads"
