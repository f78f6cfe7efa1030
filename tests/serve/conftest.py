"""A small run, its service, and both databases."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def served_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run over made-up data with a scripted model; no test changes it."""
    from served import small_run

    rankers = ("popular", "item_knn", "llm_zero_shot")
    return small_run(tmp_path_factory.mktemp("served"), rankers=rankers)


@pytest.fixture(scope="session")
def postgres() -> Iterator:
    """A PostgreSQL server of this session's own."""
    from postgres_server import PostgresServer

    server = PostgresServer()
    yield server
    server.remove()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A new database's URL, of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'state.sqlite'}"
    return request.getfixturevalue("postgres").fresh()


@pytest.fixture
def open_store() -> Iterator[Callable]:
    """Opens stores, and closes them at the end."""
    from trsr.serve.store import Store

    opened = []

    def make(url: str) -> Store:
        opened.append(Store(url))
        return opened[-1]

    yield make
    for store in opened:
        store.close()


@pytest.fixture
def make_client(served_run: Path, tmp_path: Path, open_store: Callable) -> Iterator[Callable]:
    """Makes a client of the application over a state of its own."""
    from fastapi.testclient import TestClient

    from trsr.serve.app import make_app
    from trsr.serve.service import Service
    from trsr.serve.settings import ServeSettings

    services = []

    def make(url: str = "", *, base: str = "http://localhost", **options) -> TestClient:
        settings = ServeSettings(ranker="item_knn", **options)
        store = open_store(url or f"sqlite:///{tmp_path / 'served.sqlite'}")
        services.append(Service(served_run, store, settings))
        app = make_app(services[-1], settings)
        app.state.service = services[-1]
        return TestClient(app, base_url=base, raise_server_exceptions=False)

    yield make
    for service in services:
        service.close()
