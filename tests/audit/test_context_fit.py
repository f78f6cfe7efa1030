"""The audit says whether the full history would fit into the prompt."""

from __future__ import annotations

from pathlib import Path

import pytest

from trsr.experiments.audit import Check, audit
from trsr.experiments.audit.texts import CONTEXT_FIT as NAME


def looked(folder: Path, **changes: str) -> Check:
    path = folder / "config.toml"
    text = path.read_text("utf-8")
    for before, after in changes.values():
        assert before in text
        text = text.replace(before, after)
    path.write_text(text, "utf-8")
    return next(check for check in audit(folder).checks if check.name == NAME)


def test_a_history_that_fits_is_to_be_compared_with_the_summary(faulty: Path) -> None:
    found = looked(faulty)
    assert found.state == "ok"
    assert found.numbers["items"] == 7
    assert found.numbers["fits"] == 1
    assert "100 % fit into 2,048 tokens" in found.seen
    assert "(summarize.strategy=none prompts.recent=7)" in found.seen


def test_the_size_is_that_of_a_prompt_that_lists_all(faulty: Path) -> None:
    short = looked(faulty).numbers
    full = looked(faulty, recent=("recent = 2", "recent = 7"))
    assert full.seen.startswith("the prompt lists all of it: 7 items at most")
    assert full.numbers["tokens"] == short["tokens"]
    words = looked(faulty, words=("words = 40\n", "words = 5\n"))
    assert words.numbers["longest"] < short["longest"] / 2  # type: ignore[operator]


@pytest.mark.parametrize(("room", "fits"), [(700, True), (300, False)])
def test_a_history_that_does_not_fit_is_reported(faulty: Path, room: int, fits: bool) -> None:
    found = looked(faulty, room=("context_tokens = 2048", f"context_tokens = {room}"))
    assert (found.numbers["fits"] > 0.9) == fits  # type: ignore[operator]
    assert ("something must stand for the rest" in found.seen) == (not fits)
    assert ("compare with a run" in found.seen) == fits
