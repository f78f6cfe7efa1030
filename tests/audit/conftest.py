"""The run that the audit is tested on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from planted import CONFIG, write

from trsr.config import load_config
from trsr.pipeline import run


@pytest.fixture(scope="session")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("audit")
    write(folder)
    (folder / "mine.toml").write_text(CONFIG)
    list(run(load_config(folder / "mine.toml", [f"run.folder={folder / 'run'}"])))
    return folder / "run"


@pytest.fixture
def faulty(clean: Path, tmp_path: Path) -> Path:
    """A copy of the clean run, to plant a fault in."""
    shutil.copytree(clean, tmp_path / "run")
    return tmp_path / "run"
