"""Configurations over made-up data and a tiny random model."""

from __future__ import annotations

import shutil

import pytest
from pipeline_data import write_data

from trsr.config import load_config
from trsr.pipeline import run


@pytest.fixture(scope="session")
def finished_copy(tmp_path_factory):
    """Gives what puts a copy of a finished run into a folder; each run is made once."""
    made = {}

    def copied(folder, text, *, users=14, items=30):
        """Its configuration, `mine.toml` over made-up data."""
        key = text, users, items
        if key not in made:
            made[key] = tmp_path_factory.mktemp("finished")
            write_data(made[key], users=users, items=items)
            (made[key] / "mine.toml").write_text(text)
            list(run(load_config(made[key] / "mine.toml", [f"run.folder={made[key] / 'run'}"])))
        shutil.copytree(made[key], folder, dirs_exist_ok=True)
        return load_config(folder / "mine.toml", [f"run.folder={folder / 'run'}"])

    return copied


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
