"""Files that were cut off are told from those that can be read."""

from __future__ import annotations

import json

import polars as pl
import pytest

from trsr.storage.integrity import readable


def safetensors(path):
    head = json.dumps(
        {"__metadata__": {"a": "b"}, "x": {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]}}
    ).encode()
    path.write_bytes(len(head).to_bytes(8, "little") + head + b"abc")


MAKE = {
    "a.parquet": lambda path: pl.DataFrame({"a": range(999)}).write_parquet(path),
    "a.json": lambda path: path.write_text('{"a": [1, 2]}'),
    "a.safetensors": safetensors,
}


@pytest.mark.parametrize("name", MAKE)
def test_a_file_that_was_cut_off_is_not_readable(tmp_path, name):
    path = tmp_path / name
    MAKE[name](path)
    assert readable(path)
    assert readable(tmp_path)
    whole = path.read_bytes()
    for length in (0, 1, 9, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert not readable(path), length
        assert not readable(tmp_path), length
    path.write_bytes(b"\xff" * len(whole))
    assert not readable(path)


def test_files_of_other_kinds_are_not_looked_into(tmp_path):
    (tmp_path / "report.html").write_bytes(b"")
    assert readable(tmp_path)
