"""All files are reached through `trsr.storage.files`: no other module asks the system itself."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[2] / "src" / "trsr"

SYSTEM = "machine.py"
"""Asks the system's own pages in /proc, which are no files of anybody's."""

TO_COME: frozenset[str] = frozenset()
"""Packages and modules that are still to be led through the door."""

MODULES = {
    "os": {
        *("open", "replace", "rename", "remove", "unlink", "mkdir", "makedirs", "rmdir", "stat"),
        *("lstat", "listdir", "scandir", "walk", "fsync", "chmod", "utime", "symlink", "link"),
        *("readlink", "truncate", "access"),
    },
    "os.path": {"exists", "lexists", "isfile", "isdir", "islink", "getsize", "getmtime"},
    "shutil": {"copy", "copy2", "copyfile", "copytree", "rmtree", "move", "disk_usage"},
    "tempfile": {"mkdtemp", "mkstemp", "TemporaryDirectory", "NamedTemporaryFile", "TemporaryFile"},
    "io": {"open"},
    "gzip": {"open"},
}
METHODS = {
    *("read_text", "write_text", "read_bytes", "write_bytes", "open", "exists", "is_file"),
    *("is_dir", "is_symlink", "mkdir", "iterdir", "glob", "rglob", "unlink", "rmdir", "touch"),
    *("stat", "lstat", "chmod", "symlink_to", "hardlink_to", "samefile"),
}
OPENED = {"file", "stream"}
"""Names of open files, which libraries may read and write."""


def raw(call: ast.Call) -> bool:
    """Whether a call reaches for a file by itself."""
    if isinstance(call.func, ast.Attribute):
        return _raw_method(call, call.func)
    return isinstance(call.func, ast.Name) and call.func.id == "open"


def _raw_method(call: ast.Call, func: ast.Attribute) -> bool:
    owner, name = ast.unparse(func.value), func.attr
    first = call.args[0] if call.args else None
    if owner in MODULES:
        return name in MODULES[owner]
    if owner in ("dataclasses", "files", "archive", "webbrowser", "sa"):
        return False
    if owner == "pl" and name.startswith(("read_", "scan_")):
        return ast.unparse(first or call) not in OPENED
    if name.startswith("sink_") or name in ("write_parquet", "write_csv", "write_ndjson"):
        return first is not None and ast.unparse(first) not in OPENED
    if name in ("replace", "rename"):  # of text and of tables are none
        return len(call.args) == 1 and not isinstance(first, ast.Dict | ast.Lambda | ast.DictComp)
    return name in METHODS


def raw_calls(path: Path) -> list[str]:
    tree = ast.parse(path.read_text("utf-8"))
    name = path.relative_to(SOURCES).as_posix()
    return [f"{name}:{n.lineno}" for n in ast.walk(tree) if isinstance(n, ast.Call) and raw(n)]


def test_no_module_but_the_door_reaches_for_files():
    names = {path: path.relative_to(SOURCES).as_posix() for path in SOURCES.rglob("*.py")}
    left = {"storage", SYSTEM, *TO_COME}
    found = [
        place
        for path, name in sorted(names.items())
        if not {name, name.split("/")[0]} & left
        for place in raw_calls(path)
    ]
    assert found == []


@pytest.mark.parametrize(
    ("code", "is_raw"),
    [
        ("open(path)", True),
        ("path.open('w')", True),
        ("(folder / name).exists()", True),
        ("os.path.isfile(path)", True),
        ("old.replace(new)", True),
        ("shutil.rmtree(folder)", True),
        ("pl.scan_parquet(path, glob=False)", True),
        ("frame.write_parquet(path)", True),
        ("frame.write_parquet(file)", False),
        ("pl.read_csv(stream)", False),
        ("files.exists(path)", False),
        ("text.replace('a', 'b')", False),
        ("frame.rename({'a': 'b'})", False),
        ("frame.write_csv()", False),
        ("os.path.abspath(path)", False),
    ],
)
def test_what_is_a_call_to_the_file_system(code, is_raw):
    (call,) = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)][:1]
    assert raw(call) == is_raw
