from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tiny import tiny_model_folder

from trsr.llm import ModelSettings, open_model


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama's folder."""
    return tiny_model_folder(tmp_path_factory.mktemp("tiny") / "llama")


@pytest.fixture
def tiny_settings(tiny_folder: Path) -> ModelSettings:
    return ModelSettings(name=str(tiny_folder), dtype="float32", device="cpu", context_tokens=1024)


@pytest.fixture
def tiny(tiny_settings):
    return open_model(tiny_settings)
