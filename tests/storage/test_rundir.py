"""The run directory: files appear whole or not at all."""

from __future__ import annotations

import errno
import multiprocessing
import threading
from pathlib import Path

import polars as pl
import pytest

from trsr.errors import StoreError
from trsr.storage.run_directory import RunDirectory, StageRecord, explained


def publish(run, stage, **files):
    with run.writing(stage) as out:
        for name, text in files.items():
            (out / name).write_text(text)
        return run.publish(stage, out, StageRecord({"a": 1}, {}, {}, {"n": 2}), ["*"])


def test_a_published_stage_is_recorded_with_the_hashes_of_its_files(tmp_path):
    run = RunDirectory(tmp_path / "r")
    record = publish(run, "prepare", items="x", cases="y")
    assert run.records() == {"prepare": record}
    assert set(record.files) == {"items", "cases"}
    assert run.faults(record) == []
    assert (run / "items").read_text() == "x"
    (run / "items").unlink()
    assert run.faults(record) == ["items"]


def test_publishing_again_replaces_files_and_folders(tmp_path):
    run = RunDirectory(tmp_path)
    with run.writing("train") as out:
        (out / "adapter").mkdir()
        (out / "adapter" / "old").write_text("1")
        run.publish("train", out, StageRecord({}, {}, {}), ["adapter"])
    with run.writing("train") as out:
        (out / "adapter").mkdir()
        (out / "adapter" / "new").write_text("2")
        run.publish("train", out, StageRecord({}, {}, {}), ["adapter"])
    assert [path.name for path in (run / "adapter").iterdir()] == ["new"]


def test_what_a_stage_makes_no_more_is_removed(tmp_path):
    run = RunDirectory(tmp_path)
    with run.writing("train") as out:
        (out / "adapter").mkdir()
        (out / "adapter" / "weights").write_text("1")
        run.publish("train", out, StageRecord({}, {}, {}), ["adapter"])
    with run.writing("train") as out:
        run.publish("train", out, StageRecord({"epochs": 0}, {}, {}), ["adapter"])
    assert not (run / "adapter").exists()


def test_a_stop_while_publishing_leaves_a_stage_that_is_not_done(tmp_path, monkeypatch):
    run = RunDirectory(tmp_path)
    publish(run, "prepare", items="old", cases="old")
    import trsr.storage.files as module

    moves = []
    replace = module.os.replace

    def stop_at_second(source, target):
        if source.name in ("items", "cases"):
            moves.append(source)
            if len(moves) == 2:
                raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(module.os, "replace", stop_at_second)
    with pytest.raises(KeyboardInterrupt):
        publish(run, "prepare", items="new", cases="new")
    assert run.records() == {}
    assert run.unfinished() == ["prepare"]
    monkeypatch.undo()
    publish(run, "prepare", items="new", cases="new")
    assert run.unfinished() == []


def test_a_stopped_stage_leaves_no_half_written_output_behind(tmp_path):
    run = RunDirectory(tmp_path)
    with run.writing("rank") as out:
        (out / "half").write_text("…")
    with run.writing("rank") as out:
        assert list(out.iterdir()) == []
    assert not (run / "half").exists()


def hold(folder, held):
    with RunDirectory(folder).locked():
        held.set()
        threading.Event().wait()  # until it is killed


def test_a_second_writer_is_refused_and_a_killed_one_leaves_no_lock(tmp_path):
    context = multiprocessing.get_context("spawn")
    held = context.Event()
    process = context.Process(target=hold, args=(tmp_path, held), daemon=True)
    process.start()
    assert held.wait(300)  # it imports trsr, perhaps on a busy machine
    with (
        pytest.raises(StoreError, match="another trsr is writing .*with run.folder"),
        RunDirectory(tmp_path).locked(),
    ):
        pass
    process.kill()
    process.join()
    with RunDirectory(tmp_path).locked():
        pass


@pytest.mark.parametrize(
    "text",
    [
        "{]",
        '{"stages": {}, "unfinished": [null]}',
        '{"stages": {"rank": {"settings": 1, "parents": {}, "files": {}}}, "unfinished": []}',
        "[" * 100_000,
    ],
)
def test_a_manifest_that_trsr_did_not_write_is_named(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(StoreError, match=r"manifest\.json: not a manifest"):
        RunDirectory(tmp_path).records()


def test_a_full_disk_is_explained(tmp_path):
    with pytest.raises(StoreError, match="the disk is full"), explained(tmp_path):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(StoreError, match="larger than the system allows"), explained(tmp_path):
        raise OSError(errno.EFBIG, "File too large")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_disk_is_explained_where_polars_writes(tmp_path):
    table = pl.DataFrame({"a": range(9)})
    for write in (table.write_parquet, table.write_csv):
        with pytest.raises(StoreError, match="the disk is full"), explained(tmp_path):
            write("/dev/full")


def test_other_errors_of_polars_stay_as_they_are(tmp_path):
    with pytest.raises(pl.exceptions.ColumnNotFoundError), explained(tmp_path):
        pl.DataFrame({"a": [1]}).select("b")


def test_a_run_directory_in_the_place_of_a_file_is_explained(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(StoreError, match="cannot be written"),
        RunDirectory(tmp_path / "file").locked(),
    ):
        pass
