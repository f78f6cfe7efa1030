from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import peak
from trsr.models import ModelSettings, open_model


@pytest.fixture(scope="module", autouse=True)
def alone(one_thread: None) -> None:
    """Every bench here runs in one thread."""


@pytest.fixture(autouse=True)
def soon_found_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the machine reaches is asked by most benches, and need not be found precisely."""
    monkeypatch.setitem(peak.SQUARE, "cpu", 64)
    monkeypatch.setitem(peak.matmul_peak.__kwdefaults__, "seconds", 0.01)


@pytest.fixture
def tiny_settings(tiny_model: Path) -> ModelSettings:
    return ModelSettings(name=str(tiny_model), dtype="float32", device="cpu", context_tokens=1024)


@pytest.fixture
def tiny(tiny_settings):
    return open_model(tiny_settings)
