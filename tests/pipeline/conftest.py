"""A small whole run: made-up data, a tiny random model."""

from __future__ import annotations

import pytest
from pipeline_data import SMALL, write_data

from trsr.config import load_config


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


@pytest.fixture(scope="module")
def tiny_loader(tmp_path_factory, tiny_model):
    """Gives what loads a configuration over made-up data and a tiny model, with overrides."""

    def make(text):
        folder = tmp_path_factory.mktemp("run")
        write_data(folder, users=12, items=30)
        (folder / "base.toml").write_text(text)

        def load(*overrides):
            own = [f"run.folder={folder / 'run'}", f"model.name={tiny_model}", *overrides]
            return load_config(folder / "base.toml", own)

        return load

    return make
