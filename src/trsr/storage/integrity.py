"""Checks that a file can still be read as what its name says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from trsr.errors import StoreError
from trsr.storage import files


def readable(path: Path) -> bool:
    """Whether a Parquet, JSON, NumPy or safetensors file is complete; of a folder, all of them.

    A file that was cut off or written over is not; files of other kinds are not checked.
    """
    if files.is_folder(path):
        return all(map(readable, files.listed(path)))
    try:
        match path.suffix:
            case ".parquet":
                files.read_parquet(path)
            case ".json":
                files.read_json(path)
            case ".npy":
                np.load(path, mmap_mode="r", allow_pickle=False)  # compares the size with the head
            case ".safetensors":
                return _is_complete(path)
    except (OSError, ValueError, RecursionError, StoreError):
        return False
    return True


def _is_complete(path: Path) -> bool:
    """Whether a safetensors file ends where its head says that the last tensor ends."""
    with files.open_read(path) as file:
        length = int.from_bytes(file.read(8), "little")
        size = files.size(path) - 8 - length
        head = json.loads(file.read(length)) if size >= 0 else {}
    ends = [one["data_offsets"][1] for name, one in head.items() if name != "__metadata__"]
    return bool(max(ends, default=-1) == size)
