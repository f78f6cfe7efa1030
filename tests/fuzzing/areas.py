"""Settings, histories, run directories, adapters and endpoints, spoilt."""

from __future__ import annotations

import copy
import functools
import json
import os
import random
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import polars as pl
import tomli_w
from chat_endpoint import Call, Endpoint
from pipeline_data import SCRIPTED, write_data

from fuzzing.readers import ODD, Row, WrongError, spoil_bytes
from trsr.cli.show import ranked_lines as recommended
from trsr.cli.show import user_lines as shown
from trsr.cli.terminal import visible
from trsr.config import Config, load_config, recipes
from trsr.data.requests import read_histories, read_items
from trsr.experiments.compare import compare
from trsr.experiments.sweep import read_plan
from trsr.models import http
from trsr.models.base import Sampling
from trsr.models.settings import ModelSettings, open_model
from trsr.pipeline import run
from trsr.progress import Silent
from trsr.prompts import load_domain
from trsr.recommender import Recommender
from trsr.report.costs import run_figures
from trsr.types import Message, Prompt, Query

_RANKED = SCRIPTED.replace('["random", "popular"]', '["popular", "item_knn", "llm_zero_shot"]')


def changed(rng: random.Random, value: Any) -> Any:
    """A value of JSON or TOML with some of its leaves, keys or branches other ones."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        at: Any = value
        while isinstance(at, dict | list) and at:
            keys = list(at) if isinstance(at, dict) else list(range(len(at)))
            key = rng.choice(keys)
            if not isinstance(at[key], dict | list) or not at[key] or rng.random() < 0.15:
                _change(rng, at, key)
                break
            at = at[key]
    return value


def _change(rng: random.Random, at: Any, key: Any) -> None:
    way = rng.random()
    if way < 0.15:
        del at[key]
    elif way < 0.3 and isinstance(at, dict):
        at[str(rng.choice(ODD))] = at.pop(key)
    elif way < 0.4 and isinstance(at[key], int | float):
        at[key] = rng.choice((-at[key], at[key] * 1e9, 2**31, 2**63 - 1, -1, 0))
    elif way < 0.5:
        at[key] = [at[key], copy.deepcopy(at[key])]
    else:
        at[key] = copy.deepcopy(rng.choice(ODD))


# Settings


@functools.cache
def _texts() -> tuple[str, ...]:
    """Configurations to begin with."""
    own = (path.read_text("utf-8") for path in recipes().values())
    return (*own, f'data.interactions = "x"\n{Config().to_toml()}', _RANKED)


@functools.cache
def _names() -> tuple[str, ...]:
    """Every setting, with its section."""
    return tuple(
        f"{section}.{name}"
        for section, table in Config().model_dump().items()
        if isinstance(table, dict)
        for name in table
    )


def settings(rng: random.Random, folder: Path) -> str:
    """A configuration, overrides, a sweep or a domain."""
    way = rng.random()
    if way < 0.1:
        path = Path(load_domain.__code__.co_filename).parent / "domains" / "generic.toml"
        load_domain(str(_toml(rng, folder / "own.toml", path.read_text("utf-8"))))
        return "used"
    path = _toml(rng, folder / "mine.toml", rng.choice(_texts()))
    if way < 0.2:
        sweep = 'base = "mine.toml"\nseeds = [1, 2]\n[grid]\ntrain.epochs = [1, 2]\n'
        read_plan(_toml(rng, folder / "sweep.toml", sweep))
        return "used"
    odd = (str(one) if rng.random() < 0.7 else json.dumps(str(one)) for one in ODD)
    values = list(odd)
    overrides = [f"{rng.choice(_names())}={rng.choice(values)}" for _ in range(rng.randrange(3))]
    config = load_config(path, overrides)
    again = folder / "again.toml"
    again.write_text(config.to_toml(), "utf-8")
    if load_config(again) != config.model_copy(update={"rank": config.rank.resolved()}):
        raise WrongError("the settings as they are written are other settings")
    return "used"


def _toml(rng: random.Random, path: Path, text: str) -> Path:
    import tomllib

    way = rng.random()
    if way < 0.3:
        path.write_bytes(spoil_bytes(rng, text.encode()))
        return path
    with suppress(TypeError, ValueError):  # what TOML cannot say
        text = tomli_w.dumps(changed(rng, tomllib.loads(text))) if way < 0.8 else text
    path.write_bytes(text.encode(errors="replace"))
    return path


# A small finished run


@functools.cache
def finished(scratch: Path) -> dict[str, bytes]:
    """The files of a run over few users, by their paths in its folder."""
    made = scratch / "made"
    made.mkdir()
    write_data(made, users=6, items=24)
    (made / "mine.toml").write_text(_RANKED, "utf-8")
    list(run(load_config(made / "mine.toml", [f"run.folder={made / 'run'}"])))
    return {
        str(path.relative_to(made / "run")): path.read_bytes()
        for path in sorted((made / "run").rglob("*"))
        if path.is_file()
    }


def _written(folder: Path, contents: Mapping[str, bytes]) -> Path:
    for name, content in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


# Histories


@functools.cache
def _recommender(scratch: Path, ranker: str) -> Recommender:
    finished(scratch)
    return Recommender.load(scratch / "made" / "run", ranker)


def histories(rng: random.Random, folder: Path) -> str:
    """Histories and candidates written by hand, and their ranking."""
    scratch = folder.parent
    recommender = _recommender(scratch, rng.choice(("popular", "item_knn")))
    known = recommender.catalog.ids[:6]
    path, items = folder / "h.jsonl", folder / "c.txt"
    path.write_bytes(_lines(rng, [_history(rng, known) for _ in range(rng.randrange(1, 4))]))
    items.write_bytes(_lines(rng, [_item(rng, known) for _ in range(rng.randrange(1, 4))]))
    wanted = items if rng.random() < 0.5 else None
    if rng.random() < 0.1:
        found = list(
            recommended(
                scratch / "made" / "run",
                str(path),
                wanted,
                (),
                5,
                recommender.name,
                rng.random() < 0.5,
                Silent(),
            )
        )
        if any(character < " " for line in found for character in visible(line)):
            raise WrongError("a terminal would obey what is printed")
        return "used"
    candidates = tuple(read_items(wanted, recommender.catalog)) if wanted else ()
    users = read_histories(path, recommender.catalog)
    queries = [
        Query(str(n), user, own)
        for n, user in enumerate(users)
        if (own := candidates or recommender.propose(user, 3))
    ]
    ranked = list(recommender.rank(queries))
    if [len(one.entries) for one in ranked] != [len(query.candidates) for query in queries]:
        raise WrongError("a candidate is not ranked")
    return "used"


def _history(rng: random.Random, known: list[str]) -> Row:
    items = [_item(rng, known) for _ in range(rng.randrange(5))]
    found: Row = {"user": _odd(rng, "u"), "items": items}
    if rng.random() < 0.4:
        found["times"] = [_odd(rng, n) for n in range(len(items))]
    return changed(rng, found) if rng.random() < 0.1 else found


def _item(rng: random.Random, known: list[str]) -> Any:
    if rng.random() < 0.8:
        return _odd(rng, rng.choice(known), 0.03)
    return {"id": _odd(rng, f"new {rng.randrange(9)}"), "title": _odd(rng, "a lamp", 0.5)}


def _odd(rng: random.Random, value: Any, share: float = 0.1) -> Any:
    return rng.choice(ODD) if rng.random() < share else value


def _lines(rng: random.Random, values: list[Any]) -> bytes:
    lines = (
        one if isinstance(one, str) and rng.random() < 0.8 else json.dumps(one) for one in values
    )
    raw = "\n".join(lines).encode(errors="replace")
    return spoil_bytes(rng, raw) if rng.random() < 0.2 else raw


# Run directories


def run_directories(rng: random.Random, folder: Path) -> str:
    """A run with files of another make, as somebody else may hand it over.

    Raises:
        WrongError: If something outside the run has changed.
    """
    contents = dict(finished(folder.parent))
    place, outside = _written(folder / "run", contents), folder / "outside"
    outside.mkdir()
    (outside / "letter.txt").write_text("mine")
    for name in rng.sample(sorted(contents), rng.choice((1, 1, 1, 2))):
        _spoil_file(rng, place / name, outside)
    try:
        _open(rng, place)
    finally:
        left = {path.name for path in folder.iterdir()} - {"run", "outside", "responses.sqlite"}
        kept = [path.read_text() for path in outside.iterdir()]
        if kept != ["mine"] or {name for name in left if "responses" not in name}:
            raise WrongError(f"outside the run there is now {left}, {kept}")
    return "used"


def _spoil_file(rng: random.Random, path: Path, outside: Path) -> None:
    raw, way = path.read_bytes(), rng.random()
    if way < 0.1:
        path.unlink()
        kind = rng.randrange(5)
        if kind == 0:
            path.symlink_to(outside / "letter.txt")
        elif kind == 1:
            path.symlink_to(outside)
        elif kind == 2:
            path.mkdir()
        elif kind == 3:
            os.mkfifo(path)
    elif way < 0.4:
        path.write_bytes(spoil_bytes(rng, raw))
    elif path.suffix == ".json":
        path.write_bytes(json.dumps(changed(rng, json.loads(raw))).encode(errors="replace"))
    elif path.suffix == ".toml":
        _toml(rng, path, raw.decode())
    elif path.suffix == ".parquet":
        _other_table(rng, pl.read_parquet(raw)).write_parquet(path)
    else:
        path.write_bytes(raw[: rng.randrange(len(raw) + 1)])


def _other_table(rng: random.Random, frame: pl.DataFrame) -> pl.DataFrame:
    name = rng.choice(frame.columns)
    ways: list[Callable[[], pl.DataFrame]] = [
        lambda: frame.drop(name),
        lambda: frame.rename({name: rng.choice(("", "user", "x"))}),
        lambda: frame.select(reversed(frame.columns)),
        lambda: pl.concat([frame, frame.head(1)]),
        lambda: frame.head(rng.randrange(3)),
        lambda: frame.with_columns(pl.col(name).shift(1)),
        lambda: frame.with_columns(pl.lit(None).alias(name)),
        lambda: frame.with_columns(pl.col(name).reverse()),
        lambda: frame.with_columns(pl.lit(rng.choice(ODD), allow_object=False).alias(name)),
        lambda: frame.cast({name: rng.choice((pl.String, pl.Float32, pl.Int8, pl.Binary))}),
        lambda: frame.with_columns(pl.col(name).list.reverse()),
        lambda: frame.with_columns(pl.col(name).list.head(1)),
    ]
    try:
        return rng.choice(ways)()
    except (pl.exceptions.PolarsError, TypeError, ValueError, OverflowError):
        return frame.clear()


def _open(rng: random.Random, place: Path) -> None:
    way = rng.randrange(7)
    if way < 2:
        recommender = Recommender.load(place, rng.choice(("popular", "item_knn", "llm_zero_shot")))
        history = recommender.dataset.history("u1")
        if history and (found := recommender.propose(history, 3)):
            list(recommender.rank([Query("q", history, found)]))
    elif way == 2:
        list(shown(place, "u1"))
    elif way == 3:
        run_figures(place)
    elif way == 4:
        compare([str(place)], rankers=(), metrics=(), baseline="", seeds=False)
    else:
        config = load_config(place)
        if config.model.backend == "scripted":  # a real one would take minutes
            list(run(config))


# Adapters


@functools.cache
def _model(scratch: Path) -> tuple[Path, dict[str, bytes]]:
    import torch
    from tiny import adapted, tiny_model_folder

    model = tiny_model_folder(scratch / "model")
    folder = scratch / "adapter"
    adapted("llama", torch.float32).save_pretrained(folder)
    return model, {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def adapters(rng: random.Random, folder: Path) -> str:
    """A LoRA adapter with other settings, tensors or bytes."""
    model, place = _adapter(folder.parent, folder / "adapter")
    path = place / rng.choice(("adapter_config.json", "adapter_model.safetensors"))
    raw = path.read_bytes()
    if path.suffix == ".json" and rng.random() < 0.7:
        path.write_text(json.dumps(changed(rng, json.loads(raw))), errors="replace")
    else:
        path.write_bytes(spoil_bytes(rng, raw))
    open_model(ModelSettings(name=str(model), dtype="float32"), place)
    return "used"


def adapted(scratch: Path) -> None:
    """Opens a model with a whole adapter."""
    model, place = _adapter(scratch, scratch / "whole")
    open_model(ModelSettings(name=str(model), dtype="float32"), place)


def _adapter(scratch: Path, place: Path) -> tuple[Path, Path]:
    model, contents = _model(scratch)
    return model, _written(place, contents)


# Endpoints


@functools.cache
def _endpoint() -> tuple[Endpoint, list[bytes]]:
    answers: list[bytes] = []

    def conduct(call: Call) -> None:
        call.handler.wfile.write(answers[-1])
        call.handler.close_connection = True

    http.FIRST_WAIT = http.LONGEST_WAIT = 0.001
    endpoint = Endpoint(conduct)
    return endpoint, answers


ANSWER = {
    "id": "x",
    "object": "chat.completion",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "likes lamps", "reasoning_content": "hm"},
            "finish_reason": "stop",
        }
    ],
    "usage": {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14},
}


def endpoints(rng: random.Random, folder: Path) -> str:
    """An answer of any status with broken JSON, headers or bytes.

    Raises:
        WrongError: If what is taken from it is no text, or too much of it.
    """
    endpoint, answers = _endpoint()
    body = json.dumps(changed(rng, ANSWER) if rng.random() < 0.8 else ANSWER).encode()
    body = spoil_bytes(rng, body) if rng.random() < 0.3 else body
    status = rng.choice((200,) * 8 + (204, 301, 307, 400, 401, 404, 408, 413, 429, 500, 503, 999))
    length = rng.choice((len(body),) * 9 + (0, -1, len(body) // 2, 10**20))
    headers = [
        f"HTTP/1.1 {status} x",
        rng.choice(("Content-Type: application/json",) * 4 + ("Content-Type: text/html", "x")),
        rng.choice((f"Content-Length: {length}",) * 5 + ("Transfer-Encoding: chunked", "")),
        rng.choice(("",) * 6 + ("Retry-After: nan", "Retry-After: -1", "Location: /v1/x")),
    ]
    raw = "\r\n".join([*filter(None, headers), "", ""]).encode() + body
    answers.append(spoil_bytes(rng, raw) if rng.random() < 0.2 else raw)
    chosen = ModelSettings(
        backend="openai", name="m", base_url=endpoint.url, timeout=2, retries=rng.randrange(2)
    )
    prompts = [Prompt((Message("user", "say"),))]
    found = list(open_model(chosen).generate(prompts, Sampling(max_tokens=8)))
    answers.clear()
    if len(found) > 1 or any(not isinstance(text, str) for _, text in found):
        raise WrongError(f"one prompt has the answers {found!r}")
    for _, text in found:
        text.encode()
    return "used"


def clear(scratch: Path) -> None:
    """Stops the endpoint, where one runs, and removes what areas have made."""
    if _endpoint.cache_info().currsize:
        _endpoint()[0].close()
    shutil.rmtree(scratch, ignore_errors=True)
