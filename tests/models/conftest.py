from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from chat_endpoint import KEY, Call, Endpoint


@pytest.fixture(scope="module")
def folder(tiny_model: Path) -> Path:
    """The folder of the model under test."""
    return tiny_model


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Endpoint]]:
    """Starts endpoints; waits between tries are short."""
    monkeypatch.setattr("trsr.models.http.FIRST_WAIT", 0.01)
    monkeypatch.setenv("TRSR_TEST_KEY", KEY)
    opened = []

    def start(conduct: Callable[[Call], None]) -> Endpoint:
        opened.append(Endpoint(conduct))
        return opened[-1]

    yield start
    for endpoint in opened:
        endpoint.close()
