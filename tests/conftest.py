"""What all tests share: golden files, and the real data where it is there."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from trsr.machine import cores

if together := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    # workers share the cores: threads beyond them burn time as they wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores() // int(together))))

# an example's time says more of what else the machine does than of the code
settings.register_profile("trsr", deadline=None)
settings.load_profile("trsr")

ROOT = Path(__file__).parents[1]


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_xdist_auto_num_workers() -> int:
    """One more than cores: tests also wait, for processes, servers and a browser."""
    return cores() + 1


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--rewrite-golden",
        action="store_true",
        help="write the golden files anew instead of comparing with them",
    )


LONG = {
    "test_kills.py",
    "test_ray_engine.py",
    "test_sharded.py",
    "test_group.py",
    "test_page.py",
    "test_tune_summarizer.py",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long tests come first: at the end, one worker would wait for another's."""
    items.sort(key=lambda one: one.path.name not in LONG)


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Compares a text with the file of this name in the test's folder `golden`."""
    folder = Path(request.path).parent / "golden"

    def check(name: str, text: str) -> None:
        path = folder / name
        if request.config.getoption("--rewrite-golden"):
            folder.mkdir(exist_ok=True)
            path.write_text(text, "utf-8")
        assert path.is_file(), f"{path} is missing: make it with pytest --rewrite-golden"
        assert text == path.read_text("utf-8"), "read the change; pytest --rewrite-golden keeps it"

    return check


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data beside the checkout."""
    folder = Path(os.environ.get("TRSR_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"the real data is not there: {folder}")
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Llama's folder, which no test changes."""
    from tiny import tiny_model_folder

    return tiny_model_folder(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def small_run(tiny_model: Path) -> Callable[..., Path]:
    """Writes data, a tiny model and a configuration into a folder; returns the configuration."""
    from pipeline_data import SMALL, write_data

    def make(folder: Path, text: str = SMALL) -> Path:
        write_data(folder)
        (folder / "tiny").symlink_to(tiny_model)
        (folder / "small.toml").write_text(text)
        return folder / "small.toml"

    return make


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Tiny matrices cost more to share among threads than to multiply."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
