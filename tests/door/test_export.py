"""`trsr export`: each format is opened by its own library alone, and ranks the same."""

from __future__ import annotations

import base64
import json
import re
import shutil
import threading
import tomllib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from huggingface_hub import ModelCard
from typer.testing import CliRunner

from trsr.cli.app import app
from trsr.errors import ConfigError, ModelError, StoreError
from trsr.export import FORMATS, export, push


@pytest.mark.parametrize("to", [name for name in FORMATS if name != "card"])
def test_each_library_ranks_the_same_alone(trained_run, tmp_path, to):
    found = export(trained_run, to, tmp_path / to, queries=2)
    assert found.unchecked == ""
    assert len(found.correlations) == 2
    assert min(found.correlations) > 0.95, found


def test_the_card_says_what_a_hub_and_a_reader_need_and_no_path(trained_run, tmp_path):
    outcome = CliRunner().invoke(
        app, ["export", str(trained_run), str(tmp_path / "card"), "--to", "card"]
    )
    assert outcome.exit_code == 0, outcome.output
    assert "the model card alone" in outcome.output
    card = ModelCard.load(tmp_path / "card" / "README.md")
    assert card.data.base_model == "tiny"
    assert card.data.license is None
    named = ModelCard(text_of(trained_run, tmp_path, "apache-2.0"))
    assert named.data.license == "apache-2.0"
    figures = json.loads((trained_run / "report.json").read_text())["rankers"]["llm"]["metrics"]
    listed = {one.metric_type: one.metric_value for one in card.data.eval_results}
    assert listed == {name: round(one["mean"], 4) for name, one in figures.items()}
    manifest = json.loads((trained_run / "manifest.json").read_text())
    assert manifest["stages"]["train"]["info"]["prompts"] in card.content
    assert "clicks.csv" in card.content
    assert "14 users, 30 items" in card.text
    settings = tomllib.loads(re.search(r"```toml\n(.*?)```", card.text, re.S)[1])
    assert settings["train"]["learning_rate"] == 3e-2
    assert str(trained_run.parents[1]) not in card.content
    assert "/" not in settings["data"]["interactions"]


def text_of(run, tmp_path, licence) -> str:
    found = export(run, "card", tmp_path / "named", licence=licence)
    return (found.folder / "README.md").read_text("utf-8")


def test_what_cannot_be_exported_is_said(trained_run, tmp_path):
    with pytest.raises(ConfigError, match="there is no format 'ggu': did you mean gguf"):
        export(trained_run, "ggu", tmp_path / "a")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    with pytest.raises(StoreError, match="there is something in it"):
        export(trained_run, "card", tmp_path / "full")
    bare = tmp_path / "bare"
    shutil.copytree(trained_run, bare)
    shutil.rmtree(bare / "adapter")
    with pytest.raises(ModelError, match="no trained adapter"):
        export(bare, "peft", tmp_path / "b")
    settings = (bare / "config.toml").read_text("utf-8")
    cheap = re.sub(r"(?m)^rankers = \[[^]]*\]", 'rankers = ["popular"]', settings, count=1)
    (bare / "config.toml").write_text(cheap, "utf-8")
    with pytest.raises(ConfigError, match="no ranker of this run asks a language model"):
        export(bare, "merged", tmp_path / "c")


def test_a_stopped_export_leaves_no_half_folder(trained_run, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("trsr.export.card.text", stop)  # the last that is written
    with pytest.raises(KeyboardInterrupt):
        export(trained_run, "peft", tmp_path / "out" / "peft")
    assert list((tmp_path / "out").iterdir()) == []


class Hub:
    """A hub on this machine: makes repositories, and takes commits with whole files in them."""

    def __init__(self) -> None:
        self.made: list[dict] = []
        self.files: dict[str, bytes] = {}
        self.keys: set[str] = set()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"] or 0))
                hub.keys.add(self.headers.get("Authorization", ""))
                status, answer = hub.answer(self.path, body)
                raw = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            do_GET = do_POST  # noqa: N815 - the base class's name

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, path: str, body: bytes) -> tuple[int, dict]:
        if path.endswith("/api/repos/create"):
            self.made.append(json.loads(body))
            named = "/".join(
                filter(None, (self.made[-1].get("organization"), self.made[-1]["name"]))
            )
            return 200, {"url": f"{self.address}/{named}", "id": named}
        if path.endswith("/api/validate-yaml"):
            return 200, {"errors": [], "warnings": []}
        if "/preupload/" in path:
            asked = json.loads(body)["files"]
            return 200, {
                "files": [
                    {"path": one["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for one in asked
                ]
            }
        if "/commit/" in path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    value = line["value"]
                    self.files[value["path"]] = base64.b64decode(value["content"])
            url = f"{self.address}/me/films/commit/1"
            return 200, {"commitUrl": url, "commitOid": "1", "hookOutput": ""}
        return 404, {"error": f"no such place: {path}"}


@pytest.fixture
def hub(monkeypatch):
    found = Hub()
    thread = threading.Thread(target=found.server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("HF_TOKEN", "hf_of_this_test")
    yield found
    found.server.shutdown()
    found.server.server_close()


def test_a_push_brings_all_files_to_a_private_repository(trained_run, tmp_path, hub):
    made = export(trained_run, "peft", tmp_path / "peft", queries=0)
    address = push(made.folder, "me/films", endpoint=hub.address)
    assert address == f"{hub.address}/me/films"
    (asked,) = hub.made
    named = (asked["name"], asked["organization"], asked["visibility"])
    assert named == ("films", "me", "private")
    own = {path.name: path.read_bytes() for path in made.folder.iterdir()}
    assert hub.files == own
    assert {"README.md", "adapter_config.json", "adapter_model.safetensors"} <= set(own)
    assert hub.keys == {"Bearer hf_of_this_test"}


def test_a_hub_that_refuses_or_is_gone_is_said_in_words(tmp_path, hub, monkeypatch):
    (tmp_path / "README.md").write_text("a card")
    monkeypatch.setattr(hub, "answer", lambda path, body: (403, {"error": "no"}))
    with pytest.raises(ModelError, match=r"the hub does not take me/films: .*403"):
        push(tmp_path, "me/films", endpoint=hub.address)
    with pytest.raises(ModelError, match="the hub does not take"):
        push(tmp_path, "not a name", endpoint=hub.address)
    hub.server.shutdown()
    hub.server.server_close()
    with pytest.raises(ModelError, match="the hub does not take me/films"):
        push(tmp_path, "me/films", endpoint=hub.address)
