"""The response cache in PostgreSQL: two workers, one answer."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from pipeline_data import configured, write_data
from postgres_server import PostgresServer
from pydantic import SecretStr

from trsr.cli.inspect import check_all
from trsr.config import load_config
from trsr.errors import ConfigError, StoreError
from trsr.models.base import Sampling
from trsr.models.cached import cached
from trsr.models.scripted import ScriptedModel
from trsr.pipeline import run
from trsr.storage import shared_cache
from trsr.storage.response_cache import Cost
from trsr.storage.shared_cache import SharedResponseCache, open_cache, without_password
from trsr.types import Message, Prompt


@pytest.fixture(scope="module")
def server():
    server = PostgresServer()
    yield server
    server.remove()


@pytest.fixture
def url(server):
    return server.fresh()


def test_it_keeps_what_a_file_keeps(url):
    with SharedResponseCache(url) as one, SharedResponseCache(url) as other:
        one.put_all({"a": "x\u0142", "b": [1.5, -2.0]}, {"a": Cost(0.5, 7)})
        one.put("a", "later")
        assert other.get(["a", "b", "c"]) == {"a": "x\u0142", "b": [1.5, -2.0]}
        assert other.costs(["a", "b"]) == {"a": Cost(0.5, 7)}
        assert len(other) == 2
        assert other.delete(["a", "c"]) == 1
        assert one.get(["a"]) == {}


def test_a_key_is_one_workers_until_it_is_answered_given_back_or_its_worker_is_gone(
    url, monkeypatch
):
    monkeypatch.setattr(shared_cache, "LEASE", 1.0)
    one, other = SharedResponseCache(url), SharedResponseCache(url)
    assert one.take(["a", "b", "c"]) == ({}, {"a", "b", "c"})
    assert one.take(["a"]) == ({}, {"a"})
    assert other.take(["a", "b", "c", "d"]) == ({}, {"d"})
    time.sleep(1.5)  # the first one lives, and says so
    assert other.take(["a", "b", "c"]) == ({}, set())
    one.put("a", 1)
    one.release(["b"])
    assert other.take(["a", "b", "c"]) == ({"a": 1}, {"b"})
    one._ended.set()  # as a killed one, it says no more
    time.sleep(1.2)
    assert other.take(["c"]) == ({}, {"c"})
    one.close()
    assert SharedResponseCache(url).take(["c"]) == ({}, set())
    other.close()
    assert SharedResponseCache(url).take(["b", "c"]) == ({}, {"b", "c"})


WORKER = """
import sys
from trsr.models import ModelSettings, open_model
from trsr.models.base import Sampling
from trsr.models.cached import cached
from trsr.storage.shared_cache import SharedResponseCache
from trsr.types import Message, Prompt

url, endpoint, number = sys.argv[1:]
settings = ModelSettings(backend="openai", name="m", base_url=endpoint, context_tokens=512)
prompts = [Prompt((Message("user", f"question {n % 20}"),)) for n in range(40)]
with SharedResponseCache(url) as store:
    model = cached(open_model(settings), store)
    found = dict(model.generate(iter(prompts[:: int(number)]), Sampling(max_tokens=8)))
    assert all(text == f"answer to question {n % 20}" for n, text in
               zip(range(0, 40)[:: int(number)], (found[i] for i in range(len(found)))))
    print(len(found), model.counts.asked, model.counts.hits)
"""


@pytest.fixture
def endpoint():
    """Counts what it is asked, and takes its time."""
    asked: Counter[str] = Counter()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            text = body["messages"][-1]["content"]
            asked[text] += 1
            time.sleep(0.1)
            message = {"role": "assistant", "content": f"answer to {text}"}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            answer = {"id": "x", "object": "chat.completion", "created": 0, "model": "m"}
            answer |= {"choices": [choice]}
            content = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1", asked
        server.shutdown()


def test_two_processes_ask_each_prompt_once(url, endpoint):
    address, asked = endpoint
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, url, address, number],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in ("1", "1")
    ]
    said = [worker.communicate(timeout=120) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], said
    counts = [list(map(int, out.split())) for out, _ in said]
    assert asked == Counter({f"question {n}": 1 for n in range(20)})
    assert sum(own for _, own, _ in counts) == 20
    assert all(found == own + hits == 40 for found, own, hits in counts)


class Slow(ScriptedModel):
    """Says when it has begun, and goes on when it may."""

    def __init__(self, **options):
        super().__init__(**options)
        self.began, self.may, self.asked = threading.Event(), threading.Event(), 0

    def score(self, prompts, answers):
        self.began.set()
        self.may.wait(20)
        self.asked += len(prompts)
        return super().score(prompts, answers)


def test_scores_that_another_worker_computes_are_waited_for(url):
    prompts = [Prompt((Message("user", f"q {n}"),)) for n in range(4)]
    with SharedResponseCache(url) as one, SharedResponseCache(url) as other:
        first, second = Slow(), Slow()
        results = []
        threads = [
            threading.Thread(
                target=lambda model, store, part: results.append(
                    cached(model, store).score(part, ["yes", "no"])
                ),
                args=args,
            )
            for args in ((first, one, prompts[:3]), (second, other, prompts[1:]))
        ]
        threads[0].start()
        assert first.began.wait(20)
        threads[1].start()
        assert second.began.wait(20)
        second.may.set()
        first.may.set()
        for thread in threads:
            thread.join(20)
        assert (first.asked, second.asked) == (3, 1)
        assert np.array_equal(sorted(map(len, results)), [3, 3])


def test_a_failed_worker_gives_its_claims_back(url):
    class Failing(ScriptedModel):
        def generate(self, prompts, sampling):
            for number, _ in enumerate(prompts):
                if number == 1:
                    raise RuntimeError("no")
            yield 0, ""

    prompts = [Prompt((Message("user", f"q {n}"),)) for n in range(3)]
    with SharedResponseCache(url) as one, SharedResponseCache(url) as other:
        with pytest.raises(RuntimeError, match="no"):
            list(cached(Failing(), one).generate(iter(prompts), Sampling()))
        assert len(list(cached(ScriptedModel(), other).generate(iter(prompts), Sampling()))) == 3


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("postgresql://u:hun@ter@localhost:1/d", "postgresql://u@localhost:1/d"),
        ("postgresql://u@h/d?Password=x&a=b", "postgresql://u@h/d?a=b"),
        ("postgresql://h/d?user=u;password=x", "postgresql://h/d?user=u"),
        ("postgresql://u/pw@h/d", "postgresql://u@h/d"),
        ("postgresql://u:pw", "postgresql://u"),
        ("postgresql://h:5432/d", "postgresql://h:5432/d"),
        ("postgresql:///d?host=folder", "postgresql:///d?host=folder"),
    ],
)
def test_an_address_is_shown_without_its_password(address, shown):
    assert without_password(address) == shown


@pytest.mark.parametrize(
    "cache",
    [
        "POSTGRESQL://u:hunter2x@h/d",
        " postgresql://u:hunter2x@h/d",
        "host=h dbname=d password=hunter2x",
        '["postgresql://u:hunter2x@h/d"]',
    ],
)
def test_what_looks_like_an_address_is_refused_without_its_words(cache):
    with pytest.raises(ConfigError) as refused:
        load_config("demo", [f"run.cache={cache}"])
    assert "hunter2x" not in str(refused.value)
    assert "postgresql://USER@HOST/DATABASE" in str(refused.value)


@pytest.mark.parametrize("port", ["notaport/d", "[::1/d"])
def test_an_address_that_cannot_be_read_is_no_traceback(port):
    with pytest.raises(ConfigError, match="PORT as a number"):
        open_cache(SecretStr(f"postgresql://u:hunter2x@localhost:{port}"))


def test_a_password_is_written_nowhere(tmp_path):
    url = "postgresql://me:p%40ss@127.0.0.1:9/db?sslmode=disable"
    (tmp_path / "c.toml").write_text("")
    config = load_config("demo", [f"run.folder={tmp_path / 'x'}", f"run.cache={url}"])
    assert config.run.cache.get_secret_value() == url
    assert "p%40ss" not in config.to_toml() + repr(config) + str(config.model_dump())
    bare = "postgresql://me@127.0.0.1:9/db?sslmode=disable"
    assert f'cache = "{bare}"' in config.to_toml()
    assert without_password("postgresql://me:p@s/s@h/d?password=x&a=1") == "postgresql://me@h/d?a=1"
    with pytest.raises(
        StoreError, match=r"postgresql://me@127.0.0.1:9/db\S* cannot be opened"
    ) as e:
        open_cache(config.run.cache)
    assert "p%40ss" not in str(e.value)
    assert "p@ss" not in str(e.value)


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("sslmod=require", "option 'sslmod' that PostgreSQL does not know: did you mean sslmode"),
        ("s3cr%40t=1", r"an option behind the \? that"),
    ],
)
def test_an_unknown_option_of_an_address_is_named(query, said):
    with pytest.raises(ConfigError, match=said) as found:
        SharedResponseCache(f"postgresql://u@h/d?{query}")
    assert "s3cr" not in str(found.value)


def test_a_database_that_does_not_answer_is_found_before_any_work(tmp_path):
    write_data(tmp_path)
    (tmp_path / "a.toml").write_text(configured(rank={"rankers": ["llm_zero_shot"]}))
    cache = "run.cache=postgresql://u@127.0.0.1:9/d"
    config = load_config(tmp_path / "a.toml", [cache, f"run.folder={tmp_path / 'run'}"])
    with pytest.raises(StoreError, match="cannot be opened"):
        list(run(config))
    assert not (tmp_path / "run" / "items.parquet").exists()
    with pytest.raises(StoreError, match="cannot be opened"):
        list(check_all(tmp_path / "a.toml", [cache]))
    cheap = [cache, f"run.folder={tmp_path / 'cheap'}", "rank.rankers=['popular']"]
    assert all(one.made for one in run(load_config(tmp_path / "a.toml", cheap)))  # asks no model
