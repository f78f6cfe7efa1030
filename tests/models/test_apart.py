"""A model in a process of its own writes what it writes here, and outlives whoever gives up."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from forked import ForkedPopen

from trsr.errors import ModelError, PromptError
from trsr.models import ModelSettings, Sampling, apart, open_model
from trsr.models.apart import ApartModel
from trsr.types import Image, Message, Prompt

SAMPLING = Sampling(max_tokens=6, temperature=1.0, seed=3)


def prompt(text: str, draw: int = 0) -> Prompt:
    return Prompt((Message("user", text), Message("assistant", "It")), draw)


def test_the_process_is_a_program_that_opens_any_backend(tiny_model: Path) -> None:
    settings = ModelSettings(name=str(tiny_model), backend="scripted")
    here, model = open_model(settings), ApartModel(settings)
    asked = [prompt("one red lamp"), prompt("two", 1)]
    assert model.identity == here.identity
    assert sorted(model.generate(asked, SAMPLING)) == sorted(here.generate(asked, SAMPLING))
    model.forget()


def test_it_writes_as_in_this_process(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = [sys.executable, "-m", "trsr.models.apart"]

    def started(given: list[str], **_: object) -> ForkedPopen:
        assert given == command
        return ForkedPopen(apart.main)

    forking = SimpleNamespace(PIPE=subprocess.PIPE, Popen=started)
    monkeypatch.setattr("trsr.models.apart.subprocess", forking)
    settings = ModelSettings(
        name=str(tiny_model), dtype="float32", device="cpu", context_tokens=128, batch_size=2
    )
    here, there = open_model(settings), ApartModel(settings)
    asked = [prompt("one red lamp"), prompt("two", 1), prompt("a line\nand ünother")]
    assert there.identity == here.identity
    assert there.context_tokens == here.context_tokens
    assert [there.count_tokens(one) for one in asked] == [here.count_tokens(one) for one in asked]
    expected = sorted(here.generate(asked, SAMPLING))
    assert sorted(there.generate(asked, SAMPLING)) == expected

    texts: Any = there.generate(asked, SAMPLING)
    next(texts)
    assert sorted(there.generate(asked, SAMPLING)) == expected  # whoever gives up blocks nobody
    texts.close()

    answered: list[tuple[int, str]] = []

    def in_turn() -> Iterator[Prompt | None]:
        """A prompt that waits for the one before it."""
        yield asked[0]
        while not answered:
            yield None
        yield asked[1]

    for one in there.generate(in_turn(), SAMPLING):
        answered.append(one)
    assert answered == expected[:2]
    with pytest.raises(PromptError, match="128"):
        list(there.generate([asked[0], prompt("word " * 200)], SAMPLING))
    with pytest.raises(PromptError, match="an image"):
        list(there.generate([Prompt((Message("user", Image(b"x", "image/png")),))], SAMPLING))
    texts = there.generate(asked, SAMPLING)
    next(texts)
    there.forget()
    with pytest.raises(ModelError, match="has ended"):
        list(texts)
    assert sorted(there.generate(asked, SAMPLING)) == expected  # it is started again
    there.forget()
