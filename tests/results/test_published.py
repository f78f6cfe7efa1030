"""The project's own page of results is what its kept runs give."""

from __future__ import annotations

import shutil
from pathlib import Path

from trsr.results import read_plan, write_results

DOCS = Path(__file__).parents[2] / "docs"

COMMAND = "run: trsr results --runs docs/runs --skip"

LOST = {"industrial.md", "ablations_industrial.md"}
"""Of sections whose runs are lost: they stand as they stood."""


def test_the_page_is_what_the_kept_runs_give(tmp_path, monkeypatch):
    monkeypatch.chdir(DOCS.parent)
    page, details = tmp_path / "results.md", tmp_path / "tables"
    shutil.copyfile(DOCS / "results.md", page)
    plan = read_plan(Path("docs/results.toml"), Path("docs/runs"))
    written = write_results(plan, page, skip=True)
    assert written.runs, written.left_out
    before = (DOCS / "results.md").read_text("utf-8")
    assert page.read_text("utf-8") == before, COMMAND
    assert {one.name for one in details.iterdir()} | LOST == {
        one.name for one in (DOCS / "tables").iterdir()
    }
    for one in details.iterdir():
        assert one.read_text("utf-8") == (DOCS / "tables" / one.name).read_text("utf-8"), COMMAND
