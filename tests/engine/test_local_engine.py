"""The local engine: each shard once, whoever asks; failures told; killed workers' shards again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from engine_shards import FileShard, done_by, write

from trsr.engine import LocalEngine, Resources, workers_kept
from trsr.engine.local import shares
from trsr.machine import cores
from trsr.progress import Silent

TWO = Resources(workers=2)
CODE = """
import sys
from pathlib import Path
from engine_shards import FileShard, write
from trsr.engine import LocalEngine, Resources
if __name__ == "__main__":
    folder, workers, *names = Path(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]
    shards = [FileShard(name, folder) for name in names]
    engine = LocalEngine(folder / "locks")
    assert all(not one.error for one in engine.map(write, shards, Resources(workers)))
"""


def shards_of(folder: Path, *names: str) -> list[FileShard]:
    return [FileShard(name, folder) for name in names]


def begin(folder: Path, workers: int, *names: str) -> subprocess.Popen[bytes]:
    (folder / "code.py").write_text(CODE)
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, folder / "code.py", folder, str(workers), *names],
        env={**os.environ, "PYTHONPATH": path},
    )


@pytest.mark.parametrize("workers", [1, 2])
def test_each_shard_is_done_once_and_a_second_call_finds_all_there(
    tmp_path: Path, workers: int
) -> None:
    notes = []

    class Watched(Silent):
        def advance(self, steps: int = 1, note: str = "") -> None:
            notes.append(note)

    shards = shards_of(tmp_path, "a", "b", "c", "d")
    engine = LocalEngine(tmp_path / "locks", Watched())
    found = list(engine.map(write, shards, Resources(workers)))
    assert sorted(one.shard.name for one in found) == ["a", "b", "c", "d"]
    assert all(one.made and not one.error for one in found)
    assert ({one.value for one in found} == {str(os.getpid())}) == (workers == 1)
    assert any("at " in note for note in notes)
    again = list(engine.map(write, shards, Resources(workers)))
    assert not any(one.made or one.error for one in again)
    assert sorted(done_by(tmp_path)) == ["a", "b", "c", "d"]


def test_a_failure_is_reported_with_its_cause_and_the_others_go_on(tmp_path: Path) -> None:
    engine = LocalEngine(tmp_path / "locks")
    shards = shards_of(tmp_path, "bad", "a", "b")
    found = {one.shard.name: one for one in engine.map(write, shards, TWO)}
    assert found["bad"].error == "no such luck"
    assert "write" in found["bad"].trace
    assert not found["a"].error
    assert not found["b"].error
    list(engine.map(write, shards))
    assert done_by(tmp_path).count("bad") == 2  # given again, it is tried again


def test_a_killed_workers_shard_is_done_again_but_not_without_end(tmp_path: Path) -> None:
    engine = LocalEngine(tmp_path / "locks")
    shards = shards_of(tmp_path, "once", "deadly", "a")
    found = {one.shard.name: one for one in engine.map(write, shards, TWO)}
    assert not found["once"].error
    assert not found["a"].error
    assert "killed by signal 9" in found["deadly"].error
    begun = done_by(tmp_path)
    assert [begun.count(name) for name in ("once", "deadly", "a")] == [2, 2, 1]


def test_processes_go_on_from_one_call_to_the_next(tmp_path: Path) -> None:
    engine = LocalEngine(tmp_path / "locks")

    def pids(*names: str) -> set[str]:
        return {one.value for one in engine.map(write, shards_of(tmp_path, *names), TWO)}

    with workers_kept():
        first = pids("a", "b")
        again = pids("c", "d")
        os.kill(int(min(first)), signal.SIGKILL)
        third = pids("e", "f")
    assert len(first) == 2
    assert again == first
    assert len(third & first) == 1
    assert not third & pids("g", "h")


def test_two_processes_share_the_shards(tmp_path: Path) -> None:
    names = [f"s{n}" for n in range(12)]
    both = [begin(tmp_path, workers, *names) for workers in (1, 2)]
    assert [child.wait(timeout=120) for child in both] == [0, 0]
    assert sorted(done_by(tmp_path)) == sorted(names)


def test_a_shard_of_a_killed_process_is_taken_over(tmp_path: Path) -> None:
    """Somebody else holds the shard, dies, and the waiting call does it."""
    code = (
        "import sys, time; from pathlib import Path; from trsr.engine import exclusive\n"
        "with exclusive(Path(sys.argv[1]), 'key-a'):\n    print('held', flush=True)\n"
        "    time.sleep(60)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path / "locks"], stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"

    class Kills(Silent):
        def advance(self, steps: int = 1, note: str = "") -> None:
            if note == "waits for another process: a":
                assert done_by(tmp_path) == ["b"]
                holder.kill()

    with holder:
        found = LocalEngine(tmp_path / "locks", Kills()).map(write, shards_of(tmp_path, "a", "b"))
        assert [one.shard.name for one in found] == ["b", "a"]


def test_what_another_failed_to_do_meanwhile_is_reported_and_not_tried(tmp_path: Path) -> None:
    folder = tmp_path / "locks"
    mine = LocalEngine(folder).map(write, shards_of(tmp_path, "a", "bad"))
    assert next(mine).shard.name == "a"
    list(LocalEngine(folder).map(write, shards_of(tmp_path, "bad")))
    (told,) = mine
    assert (told.error, told.made) == ("no such luck", False)
    assert done_by(tmp_path).count("bad") == 1


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_the_call(tmp_path: Path, how: signal.Signals) -> None:
    names = [f"s{n}" for n in range(200)]
    child = begin(tmp_path, 2, *names)
    deadline = time.monotonic() + 60
    while not done_by(tmp_path):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    child.send_signal(how)
    assert child.wait(timeout=20) != 0
    before, begun = -1, len(done_by(tmp_path))
    while begun != before:  # until no more is begun
        time.sleep(0.5)
        before, begun = begun, len(done_by(tmp_path))
    assert begun < 200


def test_each_worker_has_its_share_of_cores_and_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "POLARS_MAX_THREADS", "RAYON_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    parts = shares(3, ["0", "1"])
    assert [one.environment["CUDA_VISIBLE_DEVICES"] for one in parts] == ["0", "1", "0"]
    each = max(1, cores() // 3)
    assert {one.environment["OMP_NUM_THREADS"] for one in parts} == {str(each)}
    if hasattr(os, "sched_getaffinity"):
        mine = os.sched_getaffinity(0)
        assert all(len(one.cores) == each and mine.issuperset(one.cores) for one in parts)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    (own,) = shares(1, [])
    assert "OMP_NUM_THREADS" not in own.environment
