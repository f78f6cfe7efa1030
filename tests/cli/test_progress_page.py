"""`progress.html`: renewed while a run goes on, one plain file, with the run's state in it."""

from __future__ import annotations

import time

import pytest

from trsr.errors import RunBusyError
from trsr.progress import Silent
from trsr.report import progress_page
from trsr.report.progress_page import ProgressPage


def test_the_page_tells_what_is_done_and_then_how_it_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(progress_page, "EVERY", 0.05)
    path = tmp_path / "progress.html"

    def shows(*texts: str) -> bool:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            page = path.read_text() if path.exists() else ""
            if all(text in page for text in texts):
                return True
            time.sleep(0.02)
        return False

    def fails() -> None:
        with ProgressPage(path, "<b>", ["prepare", "rank"]) as page:
            page.watch("prepare", Silent())
            page.end("prepare", "done in 2.0 s")
            bar = page.watch("rank", Silent())
            bar.begin(100, "queries")
            bar.advance(0, "0 of 1 workers are up")
            assert shows("0 of 100 queries", "workers are up", "refresh")
            for _ in range(5):
                bar.advance(10, "<i>5 of 10 shards")
            assert shows("50 of 100 queries", "&lt;i&gt;5 of 10 shards", "50%", "left, until")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    last = path.read_text()
    assert "stopped; the command itself says why" in last
    assert "done in 2.0 s" in last
    assert "refresh" not in last
    assert "<b>:" not in last
    assert "<script" not in last


def test_a_command_that_is_refused_leaves_the_page_of_the_one_that_writes(tmp_path):
    path = tmp_path / "progress.html"

    def refused() -> None:
        with ProgressPage(path, "run", ["prepare"]):
            raise RunBusyError

    with pytest.raises(RunBusyError):
        refused()
    assert not path.exists() or "stopped" not in path.read_text()
