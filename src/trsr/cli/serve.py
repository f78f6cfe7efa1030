"""`trsr serve`: the live service of a run, and its API keys."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trsr.errors import ConfigError, TrsrError
from trsr.progress import Progress
from trsr.registry import optional
from trsr.storage import files
from trsr.storage.run_directory import need_run

if TYPE_CHECKING:
    from trsr.serve.service import Service
    from trsr.serve.settings import ServeSettings
    from trsr.serve.store import Store


def add_key(run: Path, database: str, name: str, scopes: Sequence[str]) -> str:
    """Makes an API key, and gives its text.

    Raises:
        ConfigError: If a scope is unknown, or there is none.
    """
    from trsr.serve.auth import add_key as add

    with _opened(run, _settings({"database": database})) as store:
        return add(store, name, scopes)


def drop_key(run: Path, database: str, name: str) -> None:
    """Removes an API key.

    Raises:
        ConfigError: If there is none of this name.
    """
    with _opened(run, _settings({"database": database})) as store:
        if not store.drop_key(name):
            raise ConfigError(f"there is no API key {name!r}")


def write_log(run: Path, database: str, folder: Path) -> str:
    """Writes what came in while a run was served; a line that says what it is.

    Raises:
        StoreError: If there is no such state, or it cannot be used.
    """
    settings = _settings({"database": database})
    place = settings.file(run)
    if place is not None and not files.is_file(place):
        raise ConfigError(f"{place}: there is no such state: {run} was not served yet (--database)")
    if files.exists(folder) and not files.is_folder(folder):
        raise ConfigError(f"--write-log {folder}: is no folder; name a new one")
    with _opened(run, settings) as store:
        events, items, deleted = store.write_log(folder)
    return (
        f"{folder}: {events:,} events, {items:,} new or changed items, {deleted:,} deleted users; "
        f"next: trsr run CONFIG data.service_log={folder} run.folder=…"
    )


def serve(run: Path, options: dict[str, object], say: Callable[[str], None]) -> None:
    """Serves a run until it is stopped.

    Raises:
        ConfigError: If an option is wrong, or keys are needed and there are none.
        StoreError: If the run or the database cannot be used.
    """
    optional("fastapi", "serve", "trsr serve")
    import uvicorn

    from trsr.serve.app import make_app
    from trsr.serve.service import Service

    settings = _settings(options)
    with _opened(run, settings) as store:
        if not settings.loopback and not store.api_keys():
            raise ConfigError(
                f"{settings.host} is reached from other machines, so the service needs an API key: "
                "first give `trsr serve RUN --add-key NAME --scope read --scope write`"
            )
        with (
            _bound(settings) as listening,
            contextlib.closing(Service(run, store, settings)) as service,
        ):
            host, port = listening.getsockname()[:2]
            shown = f"[{host}]" if ":" in host else host
            # now, so that no request waits for it; the first request meets a failure again
            threading.Thread(target=_warm, args=(service,), daemon=True).start()
            say(f"serving {run} on http://{shown}:{port}")
            logging.getLogger("trsr.serve").setLevel(logging.WARNING)
            config = uvicorn.Config(
                make_app(service, settings),
                access_log=False,  # it would hold users' ids
                log_level="warning",
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=30,
            )
            uvicorn.Server(config).run(sockets=[listening])


def _warm(service: Service) -> None:
    with contextlib.suppress(TrsrError):
        service.ready()


def put_under_load(
    run: Path,
    seconds: float,
    clients: int,
    rate: float,
    ranker: str,
    database: str,
    picture: Path | None,
    progress: Progress,
) -> dict[str, Any]:
    """Measures a service of a run under load, and draws the figures where a file is given."""
    optional("fastapi", "serve", "trsr loadtest")
    from trsr.serve import loadtest

    need_run(run)
    found = loadtest.loadtest(
        run,
        seconds=seconds,
        clients=clients,
        rate=rate,
        ranker=ranker,
        database=database,
        progress=progress,
    )
    if picture:
        files.write_text(picture, loadtest.picture(found), private=False)
    return found


def mcp(run: Path, options: dict[str, object]) -> None:
    """Answers an agent on standard input and output, until that ends.

    Raises:
        ConfigError: If a library is missing.
        StoreError: If the run or the database cannot be used.
    """
    optional("mcp", "mcp", "trsr mcp")
    settings = _settings(options)
    from trsr.serve.mcp import make_server
    from trsr.serve.service import Service

    with (
        _opened(run, settings) as store,
        contextlib.closing(Service(run, store, settings)) as service,
    ):
        make_server(service).run("stdio")


def _settings(options: dict[str, object]) -> ServeSettings:
    optional("sqlalchemy", "serve", "trsr serve")
    from trsr.serve.settings import ServeSettings

    return ServeSettings.model_validate(options)


def _opened(run: Path, settings: ServeSettings) -> contextlib.closing[Store]:
    from trsr.serve.store import Store

    need_run(run)
    if settings.database.startswith("postgres"):
        optional("psycopg", "postgres", "PostgreSQL")
    return contextlib.closing(Store(settings.url(run)))


def _bound(settings: ServeSettings) -> socket.socket:
    """A listening socket: a port that is taken is found out before the model is loaded."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=512)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {settings.host} port {settings.port}: {error.strerror or error}; "
            "choose another --port"
        ) from error
