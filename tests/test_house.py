"""What must hold of the house itself."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

SOURCES = Path(__file__).parent.parent / "src" / "trsr"
HEAVY = ("torch", "transformers", "peft", "openvino_genai", "openai", "sqlite3")
NOT_FOR_A_CHECK = (
    *HEAVY[:5],
    *("scipy", "jinja2", "sqlalchemy", "fsspec", "obstore", "opentelemetry", "optuna", "filelock"),
    *("ssl", "urllib.request", "http.client", "multiprocessing", "rich.progress", "rich.table"),
    *("trsr.pipeline", "trsr.engine", "trsr.report", "trsr.recommender", "trsr.explanation"),
    *("trsr.config.start", "trsr.data.guesses", "trsr.data.roles"),
)
"""What a command of a second has no time to import: no setting of the configuration asks for it."""


def test_polars_takes_no_path_for_a_pattern():
    """Else `r[1]` is read as `r1`: a reader is told `glob=False`, or is handed an open file."""
    patterns = []
    for path in SOURCES.rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(call, ast.Call):
                continue
            name = ast.unparse(call.func)
            if not re.fullmatch(r"pl\.(read|scan)_\w+", name):
                continue
            told = {key.arg: ast.unparse(key.value) for key in call.keywords}
            opened = ast.unparse(call.args[0]) == "stream"
            metadata = name == "pl.read_parquet_metadata"  # of one file, always
            if not (told.get("glob") == "False" or opened or metadata):
                patterns.append(f"{path.name}:{call.lineno}")
    assert patterns == []


def test_settings_and_help_load_no_heavy_library():
    rooms = (
        "config, trsr.training, trsr.training.settings, trsr.rankers.settings, "
        "trsr.rankers.sequential.ranker"
    )
    check = (
        "import sys\nfrom trsr.cli import main\nsys.argv = ['trsr', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n"
        f"    print(sorted(set(sys.modules) & set({HEAVY!r})))\n"
        f"import trsr.{rooms}\nprint(sorted(set(sys.modules) & set({HEAVY[:5]!r})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", check], capture_output=True, text=True, check=True, timeout=240
    )
    *lines, first, last = done.stdout.strip().splitlines()
    assert first == last == "[]"
    assert any("summarize" in line for line in lines)


def test_a_check_imports_only_what_it_reads(tmp_path):
    lines = [f"u{user},i{item},{item}" for user in range(9) for item in range(9)]
    (tmp_path / "clicks.csv").write_text("\n".join(["user,item,timestamp", *lines]))
    items = [f"i{item},Title {item}" for item in range(40)]
    (tmp_path / "items.csv").write_text("\n".join(["item,title", *items]))
    config = tmp_path / "mine.toml"
    config.write_text('[data]\ninteractions = "clicks.csv"\nitems = "items.csv"\n')
    check = (
        f"import sys\nfrom trsr.cli import main\nsys.argv = ['trsr', 'check', {str(config)!r}]\n"
        "try:\n    main()\nexcept SystemExit:\n"
        f"    print(sorted(set(sys.modules) & set({NOT_FOR_A_CHECK!r})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", check], capture_output=True, text=True, check=True, timeout=60
    )
    assert "9  test cases" in done.stdout
    assert done.stdout.strip().splitlines()[-1] == "[]"


def test_public_names_are_few_and_known():
    import trsr

    assert sorted(trsr.__all__) == [
        "Case",
        "Config",
        "Item",
        "Query",
        "RankedList",
        "Recommender",
        "Summary",
        "TrsrError",
        "UserHistory",
        "fit",
        "load",
        "load_config",
        "run_evaluate",
        "run_prepare",
        "run_rank",
        "run_summarize",
        "run_train",
    ]
    for name in trsr.__all__:
        assert getattr(trsr, name) is not None
