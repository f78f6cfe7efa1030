"""Fewer draws, where no test reads what more of them would add."""

from __future__ import annotations

import pytest


@pytest.fixture
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draws of signs and users take most of a comparison's time."""
    for name in ("FLIPS", "RESAMPLES"):
        monkeypatch.setattr(f"trsr.metrics.significance.{name}", 1000)
