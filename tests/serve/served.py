"""A small run, and what a service needs over it."""

from __future__ import annotations

import itertools
import socket
import threading
import time
from contextlib import contextmanager

import uvicorn
from pipeline_data import SCRIPTED, write_data

from trsr.config import load_config
from trsr.pipeline import run
from trsr.serve.app import make_app
from trsr.serve.schemas import Event
from trsr.serve.service import Service
from trsr.serve.settings import ServeSettings
from trsr.serve.store import Store

BLOCK = 3


def small_run(folder, strategy="recurrent", rankers=("popular", "llm_zero_shot"), settings=()):
    """A finished run of made-up data with a model that answers by a script; its folder."""
    folder.mkdir(exist_ok=True)
    write_data(folder)
    named = ", ".join(f'"{name}"' for name in rankers)
    text = SCRIPTED.replace('rankers = ["random", "popular"]', f"rankers = [{named}]")
    text = text.replace(
        'strategy = "none"', f'strategy = "{strategy}"\nblock_items = {BLOCK}\nfan_in = 2'
    )
    text += '\n[prompts]\ndomain = "products"\nrecent = 2\n'
    text += "\n[summarize.sampling]\nmax_tokens = 9\n"
    (folder / "small.toml").write_text(text, "utf-8")
    own = [f"run.folder={folder / 'run'}", *settings]
    list(run(load_config(folder / "small.toml", own)))
    return folder / "run"


def opened(run_folder, database, **settings):
    """A service over a run and a database file."""
    return Service(run_folder, Store(f"sqlite:///{database}"), ServeSettings(**settings))


def ended(service):
    """Closes a service and its store."""
    service.close()
    service.store.close()


@contextmanager
def serving(service):
    """A real server on loopback; its address."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        app = make_app(service, service.settings)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        finally:
            server.should_exit = True
            thread.join()


_numbers = itertools.count()


def event(user, item, time, name=""):
    """An event with an id of its own."""
    return Event(id=name or f"e{next(_numbers)}", user=user, item=f"p{item}", time=float(time))
