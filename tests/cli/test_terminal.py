"""What a bar says where there is no terminal to draw on."""

from __future__ import annotations

import logging

import pytest

from trsr import progress
from trsr.cli import terminal
from trsr.explanation import named
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
