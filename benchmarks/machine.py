"""What machine and which versions a bench ran on, without a name or a path of it."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from importlib import metadata

from trsr.machine import cores, cpuinfo, processor

PACKAGES = ("trsr", "torch", "transformers", "peft", "polars", "numpy", "openvino-genai")
_FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16")


def machine() -> str:
    """The kind of machine in a line: processor, cores, what it multiplies fast, memory, GPU."""
    parts = [processor(), f"{cores()} cores"]
    flags = [flag for flag in _FLAGS if flag in cpuinfo("flags").split()]
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
