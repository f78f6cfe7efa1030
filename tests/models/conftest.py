from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def folder(tiny_model: Path) -> Path:
    """The folder of the model under test."""
    return tiny_model
