"""A small whole run: made-up data, a tiny random model."""

from __future__ import annotations

import pytest
from pipeline_data import SMALL, write_data


@pytest.fixture
def small_run():
    """Writes data, a tiny model and a configuration into a folder; returns the configuration."""

    def make(folder, text=SMALL):
        from tiny import tiny_model_folder

        write_data(folder)
        tiny_model_folder(folder / "tiny")
        (folder / "small.toml").write_text(text)
        return folder / "small.toml"

    return make
