"""Whether a file can still be read as what its name says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from trsr.errors import StoreError
from trsr.storage import files


def readable(path: Path) -> bool:
    """Whether a Parquet, JSON, NumPy or safetensors file is whole; of a folder, all of them.

    A file that was cut off or written over is none of these any more; files of other kinds are not
    looked into.
    """
    if files.is_folder(path):
        return all(map(readable, files.listed(path)))
    try:
        return _KINDS.get(path.suffix, _anything)(path)
    except (OSError, ValueError, RecursionError, StoreError):
        return False


def _anything(path: Path) -> bool:
    return True


def _parquet(path: Path) -> bool:
    files.read_parquet(path)
    return True


def _json(path: Path) -> bool:
    files.read_json(path)
    return True


def _safetensors(path: Path) -> bool:
    """Its head says where the last tensor ends, and that must be the end of the file."""
    with files.open_read(path) as file:
        length = int.from_bytes(file.read(8), "little")
        size = files.size(path) - 8 - length
        head = json.loads(file.read(length)) if size >= 0 else {}
    ends = [one["data_offsets"][1] for name, one in head.items() if name != "__metadata__"]
    return bool(max(ends, default=-1) == size)


def _numpy(path: Path) -> bool:
    np.load(path, mmap_mode="r", allow_pickle=False)  # looks whether the size is the head's
    return True


_KINDS: dict[str, Callable[[Path], bool]] = {
    ".npy": _numpy,
    ".parquet": _parquet,
    ".json": _json,
    ".safetensors": _safetensors,
}
