"""Run directories in an object store, over a server that speaks S3."""

from __future__ import annotations

import contextlib
import http.server
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import pytest
from pipeline_data import CHEAP, write_data
from s3_server import KEYS, PAGE

import trsr
from trsr.cli.inspect import write_config
from trsr.config import load_config
from trsr.errors import ConfigError, StoreError
from trsr.experiments.compare import compare
from trsr.export.compressing import compress_run
from trsr.pipeline import run, run_stage
from trsr.pipeline.stages import PREPARE
from trsr.serve.settings import ServeSettings
from trsr.storage import files, remote_run
from trsr.storage.addresses import watch_transfers
from trsr.storage.remote import MovedOnError, RemoteFolder
from trsr.storage.remote_run import RemoteRunDirectory, local, working_copy
from trsr.storage.run_directory import MANIFEST, StageRecord


def names(url: str) -> set[str]:
    remote = RemoteFolder(url)
    entries = remote.entries()
    return {*entries, *(inner for name in entries for inner in remote.below(name))}


def publish(directory, stage="prepare", **contents):
    """One stage whose files hold these texts; a dictionary is a folder."""
    with directory.writing(stage) as out:
        for name, text in contents.items():
            inner = {name: text} if isinstance(text, str) else text
            for part, one in inner.items():
                files.write_text(out / name / part if part != name else out / name, one)
        return directory.publish(stage, out, StageRecord({}, {}, {}, {}), ("*",))


@pytest.fixture
def another_machine(monkeypatch, tmp_path):
    """Copies lie elsewhere from now on."""
    return lambda: monkeypatch.setenv("TRSR_CACHE", str(tmp_path / "machine-b"))


def test_a_run_is_made_at_an_address_and_used_on_another_machine(bucket, tmp_path, another_machine):
    write_data(tmp_path)
    for name in ("clicks.csv", "products.jsonl"):
        RemoteFolder(f"s3://{bucket}/data").write(name, (tmp_path / name).read_bytes())
    at = {"clicks.csv": f"s3://{bucket}/data/clicks.csv", "products.jsonl": "products.jsonl"}
    text = CHEAP
    for name, url in at.items():
        text = text.replace(f'"{name}"', f'"{url}"')
    (tmp_path / "cheap.toml").write_text(text)
    url = f"s3://{bucket}/runs/cheap"
    config = load_config(tmp_path / "cheap.toml", [f"run.folder={url}"])
    assert all(outcome.made for outcome in run(config))
    assert {"items.parquet", "report.html", MANIFEST, "rankers/popular/key.json"} <= names(url)
    written = RemoteFolder(url).read("config.toml")[0].decode()
    assert f'folder = "{url}"' in written
    assert at["clicks.csv"] in written
    assert KEYS["AWS_SECRET_ACCESS_KEY"] not in written

    another_machine()
    recommender = trsr.load(url)
    assert recommender.recommend("u1", k=3).height == 3
    here = {path.name for path in files.listed(recommender.dataset.folder)}
    assert {"items.parquet", "rankers"} <= here
    assert not {"report.html", "per_query.parquet", "rankings.parquet"} & here
    assert len(compare([f"{url}:random", f"{url}:popular"]).table()[1]) == 2
    assert all(not outcome.made for outcome in run(load_config(url)))  # up to date, from afar

    # other data under the same address: made again
    changed = (tmp_path / "clicks.csv").read_text() + "u1,p29,99999\n"
    RemoteFolder(f"s3://{bucket}/data").write("clicks.csv", changed.encode())
    assert next(run(load_config(url))).made


def test_only_files_that_are_looked_at_come_and_a_newer_run_is_another_snapshot(bucket):
    url = f"s3://{bucket}/x"
    directory = RemoteRunDirectory(url)
    with directory.locked():
        publish(directory, one="1", two="2", folder={"a": "A", "b": "B"})
    first = local(url)
    assert files.read_text(first / "one") == "1"
    assert sorted(path.name for path in files.listed(first)) == [MANIFEST, "one"]
    assert [path.name for path in files.listed(first / "folder")] == ["a", "b"]
    with directory.locked():
        publish(directory, one="other", two="2")
    assert names(url) == {".trsr-lock", MANIFEST, "one", "two"}
    assert files.read_text(local(url) / "one") == "other"
    assert files.read_text(first / "one") == "1"
    assert files.read_text(first / "two") == "2"


KILLED = """
import os, signal, sys
from trsr.storage import files, remote
from trsr.storage.remote_run import RemoteRunDirectory
from trsr.storage.run_directory import StageRecord

uploaded, real, left = [], remote.RemoteFolder._upload, int(sys.argv[2])

def upload(self, path, name, *rest):
    real(self, path, name, *rest)
    uploaded.append(name)
    if len(uploaded) == left:
        os.kill(os.getpid(), signal.SIGKILL)

remote.RemoteFolder._upload, remote.PARALLEL = upload, 1
directory = RemoteRunDirectory(sys.argv[1])
with directory.locked():
    if "prepare" not in directory.records():
        with directory.writing("prepare") as out:
            for name in ("one", "two", *(f"folder/{n}" for n in range(6))):
                files.write_text(out / name, "new")
            directory.publish("prepare", out, StageRecord({}, {}, {}, {}), ("*",))
print(len(uploaded))
"""


def test_a_killed_upload_shows_no_half_stage_and_goes_on(bucket, caplog):
    url = f"s3://{bucket}/x"
    left = []
    for kill in (2, 4, 100):
        done = subprocess.run(
            [sys.executable, "-c", KILLED, url, str(kill)], capture_output=True, text=True
        )
        left.append(done.stdout.strip() or done.returncode)
        if kill < 100:
            assert done.returncode == -signal.SIGKILL, done.stderr
            with contextlib.suppress(StoreError):  # a run without a manifest is none yet
                assert not files.is_file(local(url) / "folder" / "1")
                pytest.fail("a half stage is shown")
    assert done.returncode == 0, done.stderr
    # the lock of this machine's own killed process is not waited for, and what was up stays
    assert left == [-signal.SIGKILL, -signal.SIGKILL, "2"]
    assert files.read_text(local(url) / "folder" / "5") == "new"


def test_the_old_stage_is_hidden_while_its_files_are_replaced(bucket, monkeypatch):
    url = f"s3://{bucket}/x"
    directory = RemoteRunDirectory(url)
    with directory.locked():
        publish(directory, one="1", two="2")
        publish(directory, "rank", three="3")
        monkeypatch.setattr(RemoteFolder, "_upload", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            publish(directory, one="other", two="2")
    seen = json.loads(files.read_text(local(url) / MANIFEST))
    assert list(seen["stages"]) == ["rank"]
    assert seen["unfinished"] == ["prepare"]
    monkeypatch.undo()


def test_two_machines_do_not_write_one_run(bucket, another_machine, monkeypatch):
    monkeypatch.setattr(remote_run, "LEASE", 1.0)
    url = f"s3://{bucket}/x"
    first = RemoteRunDirectory(url)
    with first.locked():
        publish(first, one="1")
        another_machine()
        second = RemoteRunDirectory(url)
        assert second.folder != first.folder
        began = time.monotonic()
        with (
            pytest.raises(StoreError, match=r"another trsr \(process \d+ on .*is writing"),
            second.locked(),
        ):
            pass
        assert time.monotonic() - began < 3
    with second.locked():
        assert list(second.records()) == ["prepare"]
        assert files.read_text(second / "one") == "1"
        publish(second, "rank", two="2")
    with first.locked():
        assert list(first.records()) == ["prepare", "rank"]


def test_a_lock_that_nobody_renews_is_taken_over_and_its_holder_writes_no_more(
    bucket, another_machine, monkeypatch, caplog
):
    monkeypatch.setattr(remote_run, "LEASE", 0.8)
    url = f"s3://{bucket}/x"
    first = RemoteRunDirectory(url)
    with caplog.at_level(logging.WARNING), first.locked():
        publish(first, one="1")
        first._lock._ended.set()  # as if the machine stood still
        time.sleep(0.3)
        another_machine()
        second = RemoteRunDirectory(url)
        with second.locked():
            assert "took over the lock of process" in caplog.text
            publish(second, "rank", two="2")
            with pytest.raises(StoreError, match="another trsr has written this run meanwhile"):
                publish(first, "evaluate", three="3")
    assert set(json.loads(RemoteFolder(url).read(MANIFEST)[0])["stages"]) == {"prepare", "rank"}
    with first.locked():
        assert "what this one made of evaluate is left out" in caplog.text
        assert list(first.records()) == ["prepare", "rank"]


def test_conditional_writes(bucket):
    remote = RemoteFolder(f"s3://{bucket}/x")
    first = remote.replace("m", b"1", None)
    with pytest.raises(MovedOnError):
        remote.replace("m", b"2", None)
    remote.replace("m", b"2", first)
    with pytest.raises(MovedOnError):
        remote.replace("m", b"3", first)
    with pytest.raises(MovedOnError):
        remote.replace("gone", b"3", first)
    assert remote.replace("m", b"2", first) == remote.read("m")[1]  # its own answer was lost


def test_listings_have_pages(bucket):
    remote = RemoteFolder(f"s3://{bucket}/x")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: remote.write(f"folder/{n}", b"x"), range(4 * PAGE + 3)))
    assert len(remote.below("folder")) == 4 * PAGE + 3
    assert remote.entries() == {"folder": (0, "")}


def test_what_another_wrote_is_not_trusted(bucket, another_machine):
    url = f"s3://{bucket}/x"
    directory = RemoteRunDirectory(url)
    with directory.locked():
        publish(directory, one="1", folder={"a": "A"})
    remote = RemoteFolder(url)
    remote.write("one", b"evil")
    another_machine()  # this one needs no file of which it has the right content
    with pytest.raises(StoreError, match=f"{url}/one: is not what the manifest says"):
        files.exists(local(url) / "one")
    remote.write("folder/b", b"evil")
    with pytest.raises(StoreError, match="folder: is not what the manifest says"):
        files.is_folder(local(url) / "folder")
    manifest = json.loads(remote.read(MANIFEST)[0])
    manifest["stages"]["prepare"]["files"] = {"../../evil": "0"}
    remote.write(MANIFEST, json.dumps(manifest).encode())
    with pytest.raises(
        StoreError, match=r"names the file '\.\./\.\./evil', which is no plain name"
    ):
        local(url)
    with pytest.raises(StoreError, match="no plain name"), directory.locked():
        pass


class _Refusing(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(401 if self.path.startswith("/401") else 403)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_PUT = do_HEAD = do_GET  # noqa: N815

    def log_message(self, *_):
        pass


@pytest.fixture
def refusing():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_errors_say_what_to_do(bucket, monkeypatch, refusing):
    def said(place: str) -> str:
        with pytest.raises((StoreError, ConfigError)) as caught:
            local(place)
        assert KEYS["AWS_SECRET_ACCESS_KEY"] not in str(caught.value)
        return str(caught.value)

    assert "there is no run; make one with `trsr run" in said(f"s3://{bucket}/none")
    assert "there is no such bucket" in said("s3://nobucket/x")
    assert "name a folder in the bucket" in said(f"s3://{bucket}")
    assert "HDFS has no conditional writes" in said("hdfs://host/x")
    assert "give a folder, or an address" in said("ftp://host/x")
    for secret in (f"s3://{bucket}/x?sig=pw1", f"s3://me:pw1@{bucket}/x", "abfs://a:pw1@b/x"):
        assert "pw1" not in said(secret)
    monkeypatch.setenv("AWS_ENDPOINT_URL", refusing)
    assert "access is denied" in said("s3://403/x")
    assert "refused the credentials" in said("s3://401/x")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert "cannot be reached" in said(f"s3://{bucket}/x")
    for name in KEYS:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", "/nonexistent")
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", refusing)
    assert "no credentials were found" in said(f"s3://{bucket}/x")
    monkeypatch.setitem(sys.modules, "obstore", None)
    assert "pip install 'trsr[s3]'" in said(f"s3://{bucket}/x")
    assert "pip install 'trsr[remote]'" in said("gs://bucket/x")


def test_a_bar_is_shown_for_long_transfers_alone(bucket, monkeypatch):
    shown = []

    class Bar:
        def __init__(self, name):
            self.name, self.steps = name, 0

        def __enter__(self):
            return self

        def __exit__(self, *_):
            shown.append((self.name, self.total, self.steps))

        def begin(self, total, unit):
            self.total = f"{total} {unit}"

        def advance(self, steps=1, note=""):
            self.steps += steps

    watchers = []
    for module in ("addresses", "remote"):  # one list of both
        monkeypatch.setattr(f"trsr.storage.{module}.WATCHERS", watchers)
    watch_transfers(Bar)
    url = f"s3://{bucket}/x"
    directory = RemoteRunDirectory(url)
    with directory.locked():
        publish(directory, small="1", large="x" * (20 << 20))
    folder = local(url)
    files.remove(working_copy(url))
    assert files.size(folder / "large") == 20 << 20
    assert shown == [("upload large", "20 MiB", 20), ("download large", "20 MiB", 20)]


def test_copies_that_were_long_unused_are_removed(bucket):
    url = f"s3://{bucket}/x"
    directory = RemoteRunDirectory(url)
    with directory.locked():
        publish(directory, one="1")
    old = time.time() - remote_run.LIFE - 60
    os.utime(directory.folder.parent / ".used", (old, old))
    snapshot = local(url)
    assert not directory.folder.exists()
    assert snapshot.exists()
    assert snapshot.stat().st_mode & 0o077 == 0


def test_a_service_keeps_its_state_outside_of_the_copy(bucket, tmp_path):
    url = f"s3://{bucket}/x"
    directory = RemoteRunDirectory(url)
    with directory.locked():
        publish(directory, one="1")
    assert str(local(url)) not in ServeSettings().url(local(url))
    assert str(tmp_path / "machine-a") in ServeSettings().url(local(url))


def test_what_is_written_beside_a_run_needs_a_folder_of_this_machine(bucket):
    url = f"s3://{bucket}/x"
    directory = RemoteRunDirectory(url)
    with directory.locked():
        publish(directory, one="1")
    with pytest.raises(ConfigError, match=f"{url}: name a folder of this machine with --out"):
        compress_run(local(url), None)
    with pytest.raises(StoreError, match="is an address; this goes into a folder of this machine"):
        files.make_folder(Path(url) / "out")


def test_a_removed_run_is_made_anew(bucket, caplog):
    url = f"s3://{bucket}/x"
    directory = RemoteRunDirectory(url)
    with directory.locked():
        publish(directory, one="1")
    RemoteFolder(url).remove([MANIFEST, "one"])
    with caplog.at_level(logging.WARNING), directory.locked():
        assert directory.records() == {}
    assert "the run was removed" in caplog.text


def test_files_made_elsewhere_and_put_there_are_used(bucket):
    url = f"s3://{bucket}/x"
    directory = RemoteRunDirectory(url)
    with directory.locked():
        publish(directory, one="1")
    RemoteFolder(url).write("mine.parquet", b"1")
    assert files.read_bytes(local(url) / "mine.parquet") == b"1"
    RemoteFolder(url).write("mine.parquet", b"2")
    assert files.read_bytes(local(url) / "mine.parquet") == b"2"


def test_data_in_many_objects_comes_by_folder_and_by_pattern(bucket, tmp_path, another_machine):
    """A folder's marker, as a console makes it, and what lies beside the data are no data."""
    store = RemoteFolder(f"s3://{bucket}")
    write_data(tmp_path)
    lines = (tmp_path / "clicks.csv").read_bytes().splitlines(keepends=True)
    for day, part in (("1", lines[1:90]), ("2", lines[90:200]), ("10", lines[200:])):
        store.write(f"logs/day={day}/part-0.csv", b"".join([lines[0], *part]))
    for name in ("logs/_SUCCESS", "logs-of-others/x.csv", "goods-2.jsonl"):
        store.write(name, b"{}")
    plain = boto3.client("s3")
    for marker in ("logs/", "logs/day=1/", "logs/day=3/"):
        plain.put_object(Bucket=bucket, Key=marker)
    store.write("goods-1.jsonl", (tmp_path / "products.jsonl").read_bytes())
    prepared = {}
    for name, log, items in (
        ("files", "clicks.csv", "products.jsonl"),
        ("folder", f"s3://{bucket}/logs/", f"s3://{bucket}/goods-1.jsonl"),
        ("pattern", f"s3://{bucket}/logs/day=*/part-*.csv", f"s3://{bucket}/goods-[1].jsonl"),
    ):
        text = CHEAP.replace('"clicks.csv"', f'"{log}"').replace('"products.jsonl"', f'"{items}"')
        (tmp_path / f"{name}.toml").write_text(text)
        config = load_config(tmp_path / f"{name}.toml", [f"run.folder={tmp_path / name}"])
        assert run_stage(config, "prepare").made
        assert log.rstrip("/") in files.read_text(tmp_path / name / "config.toml")
        prepared[name] = [files.hash_file(tmp_path / name / one) for one in PREPARE.writes]
    assert prepared["files"] == prepared["folder"] == prepared["pattern"]

    again = load_config(tmp_path / "pattern.toml", [f"run.folder={tmp_path / 'pattern'}"])
    assert not run_stage(again, "prepare").made
    store.write("logs/_SUCCESS", b"again")
    another_machine()  # times are the objects' own
    again = load_config(tmp_path / "pattern.toml", [f"run.folder={tmp_path / 'pattern'}"])
    assert not run_stage(again, "prepare").made
    store.write("logs/day=11/part-0.csv", lines[0] + b"u1,p29,99999\n")
    store.remove(["logs/day=2/part-0.csv"])
    again = load_config(tmp_path / "pattern.toml", [f"run.folder={tmp_path / 'pattern'}"])
    found = files.matching(again.data.interactions)
    assert list(found) == [f"day={n}/part-0.csv" for n in (1, 10, 11)]
    assert run_stage(again, "prepare").made
    nothing = load_config(again_at(tmp_path, f"s3://{bucket}/gone/*.csv"))
    with pytest.raises(StoreError, match=r"gone/\*.csv: there is no such file or folder"):
        run_stage(nothing, "prepare")


def again_at(tmp_path: Path, place: str) -> Path:
    path = tmp_path / "gone.toml"
    path.write_text(CHEAP.replace('"clicks.csv"', f'"{place}"'))
    return path


def test_init_and_fit_take_addresses(bucket, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_data(tmp_path)
    store = RemoteFolder(f"s3://{bucket}")
    for name in ("clicks.csv", "products.jsonl"):
        store.write(f"data/{name}", (tmp_path / name).read_bytes())
    log, items = Path(f"s3://{bucket}/data/clicks*.csv"), f"s3://{bucket}/data/products.jsonl"
    path, _ = write_config(log, Path(items), None, force=False)
    assert path == Path("clicks.toml")
    text = path.read_text()
    assert f'interactions = "s3://{bucket}/data/clicks*.csv"' in text
    assert f'items = "{items}"' in text
    cheap = {"rank.rankers": ["popular"], "rank.retriever": "popular", "train": {"epochs": 0}}
    found = trsr.fit(str(log).replace(":/", "://"), items, **cheap, **{"data.negatives": 4})
    assert found.dataset.folder.name.startswith("clicks-")
    assert "s3://" in (found.dataset.folder / "config.toml").read_text()
