"""What a bar says where there is no terminal to draw on."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pipeline_data import configured, write_data

from trsr import cli, progress
from trsr.cli import terminal
from trsr.config import load_config
from trsr.explanation import named
from trsr.pipeline import run
from trsr.types import Item


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(terminal.err, "_force_terminal", False)
    return now


def message(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err.splitlines()[-1]


def test_what_an_earlier_run_did_does_not_count_as_speed(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    bar = terminal.Bar("train")
    bar.begin(100, "steps")
    bar.advance(50, "going on")
    for _ in range(3):
        clock[0] += 10
        bar.advance(1)
    clock[0] += 10
    bar.advance(1)
    assert "54 of 100 steps, about 7 min 40 s left" in message(capsys)


def test_the_estimate_follows_the_present_speed(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    bar = terminal.Bar("summarize")
    bar.begin(1000, "histories")
    for _ in range(400):  # from the store
        bar.advance(1)
    for _ in range(20):
        clock[0] += 30
        bar.advance(1)
    assert "420 of 1000 histories, about 4.8 h left" in message(capsys)


def test_nothing_is_estimated_before_something_is_done(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    bar = terminal.Bar("rank")
    bar.begin(1000, "queries")
    clock[0] += 60
    bar.advance(1)
    assert "too early to estimate" in message(capsys)


def test_a_long_job_is_estimated_long_before_a_twentieth_of_it_is_done(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    bar = terminal.Bar("recommend")
    bar.begin(1200, "users")
    for _ in range(6):
        clock[0] += 7
        bar.advance(1)
    assert "6 of 1200 users, about 2.3 h left" in message(capsys)


def test_long_steps_are_estimated_by_the_last_few(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    bar = terminal.Bar("sweep")
    bar.begin(16, "runs")
    for _ in range(4):
        for _ in range(90):
            clock[0] += 10
            bar.advance(0, "train")
        bar.advance(1)
    clock[0] += 300
    bar.advance(0, "rank")
    assert "4 of 16 runs, about 2.9 h left; rank" in message(capsys)
    clock[0] += 3300
    bar.advance(0, "rank")
    assert "4 of 16 runs, about 3.0 h left" in message(capsys)


def test_ids_are_printed_as_they_are(
    clock: list[float], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = "run:x:z [bold] p:100:16"
    terminal.complain(shown)
    terminal.table(["user", "item"], [["u:v:1", "p:100:16"]])
    terminal.out.print("u:fire:1", markup=False)
    printed = capsys.readouterr()
    assert f"error: {shown}" in printed.err
    assert "u:v:1" in printed.out
    assert "p:100:16" in printed.out
    assert "u:fire:1" in printed.out
    # On a terminal the bar's notes are no markup either.
    monkeypatch.setattr(terminal.err, "_force_terminal", True)
    with terminal.Bar("rank") as bar:
        bar.begin(10, "queries")
        bar.advance(1, "[/] :x:")
        drawn = bar._bar.get_renderable()
        with terminal.err.capture() as seen:
            terminal.err.print(drawn)
    assert "[/] :x:" in seen.get()


def test_log_lines_cannot_steer_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    record = {"msg": "an endpoint says %s [bold]", "args": ("\x1b[31mred\x07",)}
    terminal.LogLines().emit(logging.makeLogRecord(record))
    assert capsys.readouterr().err == "an endpoint says \\u001b[31mred\\u0007 [bold]\n"


def test_an_item_known_by_its_text_is_shown_once():
    assert named(Item("RED  LAMP", (("text", "RED LAMP"),))) == "RED LAMP"
    assert named(Item("i1", (("text", "RED LAMP"),))) == "i1  RED LAMP"
    assert named(Item("i1", ())) == "i1  (no text)"


def test_an_id_fakes_no_lines():
    assert named(Item("i1\n   1. best", (("text", "LAMP"),))) == "i1\\u000a   1. best  LAMP"


# --- Any text comes out of any stream, and a process that cannot work says so


TITLE = "café ½ “漢字” 😀 \u2028\x1b]0;x\x07"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("streams")
    write_data(folder, users=8, items=20)
    (folder / "base.toml").write_text(configured(rank={"rankers": ["popular"]}))
    list(run(load_config(folder / "base.toml", [f"run.folder={folder / 'run'}"])))
    new = json.dumps({"id": "n", "title": TITLE}, ensure_ascii=False)
    (folder / "new.jsonl").write_text(new, "utf-8")
    (folder / "who.jsonl").write_text('{"user": "漢 é", "items": []}', "utf-8")
    return folder


def trsr(folder: Path, *words: str, encoding: str = "utf-8") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "trsr", *words]
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, timeout=240)


ASK = ("recommend", "run", "who.jsonl", "--ranker", "popular", "--candidates", "new.jsonl")


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1", "cp1252"])
def test_a_stream_that_cannot_say_a_character_gets_it_spelled(folder: Path, encoding: str) -> None:
    done = trsr(folder, *ASK, encoding=encoding)
    assert done.returncode == 0
    assert done.stderr.startswith(b"new items: 1, such as 'n'; their scores by popular come")
    assert done.stderr.count(b"\n") == 1
    shown = done.stdout.decode(encoding)
    assert "\x1b" not in shown
    assert "\x07" not in shown
    assert "\\u001b]0;x\\u0007" in shown
    if encoding == "utf-8":
        assert "user 漢 é, 0 interactions" in shown
    if encoding == "ascii":
        assert "user \\u6f22 \\u00e9, 0 interactions" in shown
        assert "\\ud83d\\ude00" in shown
    as_json = trsr(folder, *ASK, "--json", encoding=encoding)
    value = json.loads(as_json.stdout.decode(encoding))
    assert (value["user"], value["ranked"][0]["item"]) == ("漢 é", "n")


def test_a_reader_that_leaves_and_streams_that_are_closed(folder: Path) -> None:
    for ending in ("| head -1", ">&-", "2>&-", ">/dev/full"):
        line = f'"{sys.executable}" -m trsr show run u0 {ending}'
        full = subprocess.run(["sh", "-c", line], cwd=folder, capture_output=True, timeout=240)
        if "full" not in ending:
            assert full.stderr == b"", ending
    assert full.returncode != 0
    assert b"No space left" in full.stderr
    assert b"Traceback" not in full.stderr


def test_somebody_who_has_met_every_item_is_told_so(folder: Path) -> None:
    items = [
        json.loads(line)["sku"] for line in (folder / "products.jsonl").read_text().splitlines()
    ]
    (folder / "all.jsonl").write_text(json.dumps({"user": "x", "items": items}))
    done = trsr(folder, "recommend", "run", "all.jsonl", "--ranker", "popular")
    assert done.returncode == 2
    assert b"user 'x' has met all 20 items" in done.stderr


FORK = """
import os, signal, sys
from trsr import Query, Recommender
from trsr.errors import StoreError

def ask(recommender):
    history = recommender.dataset.history("u0")
    query = Query("q", history, recommender.propose(history, 3))
    return len(next(iter(recommender.rank([query]))).entries)

way = sys.argv[1]
if way != "before":
    recommender = Recommender.load("run", "popular")
    assert ask(recommender) == 3
child = os.fork()
if not child:
    signal.alarm(100)
    try:
        if way != "used":
            recommender = Recommender.load("run", "popular")
        print(ask(recommender), flush=True)
    except StoreError as error:
        print(error, flush=True)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize(
    ("way", "said"),
    [
        ("before", "3"),
        ("used", "was forked from one that had used trsr"),
        ("loaded again", "was forked from one that had used trsr"),
    ],
)
def test_a_fork_of_a_process_that_has_worked_says_so_at_once(
    folder: Path, way: str, said: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORK, way], cwd=folder, capture_output=True, text=True, timeout=240
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert said in done.stdout


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"GOMP_SPINCOUNT": "1000"}),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, {"OMP_WAIT_POLICY": "ACTIVE"}),
        ({"GOMP_SPINCOUNT": "7"}, {"GOMP_SPINCOUNT": "7"}),
    ],
)
def test_threads_wait_asleep_unless_the_environment_says_how(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], expected: dict[str, str]
) -> None:
    environment = dict(given)
    monkeypatch.setattr("os.environ", environment)
    cli.sleep_while_waiting()
    assert environment == expected
