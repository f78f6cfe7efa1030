"""The Ray engine on two nodes of this machine: shards once, lost workers and nodes, equal runs."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from engine_shards import FileShard, done_by, write

from trsr.engine import RayEngine, Resources, cluster
from trsr.errors import ConfigError

ray = pytest.importorskip("ray", reason="the extra `cluster` is not installed")

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(600)]


class Nodes:
    """A cluster of two nodes with one CPU each; the second one can be killed, and comes again."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self._own = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
        head = {**self._own, "include_dashboard": False}
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self._second: Any = None
        self.address = str(self._cluster.address)
        self.whole()

    def whole(self) -> None:
        """Both nodes are there."""
        if self._second is None:
            self._second = self._cluster.add_node(**self._own)

    def kill(self) -> None:
        """Kills the second node."""
        second, self._second = self._second, None
        self._cluster.remove_node(second, allow_graceful=False)

    def end(self) -> None:
        ray.shutdown()
        self._cluster.shutdown()


@pytest.fixture(scope="module")
def nodes():
    with pytest.MonkeyPatch.context() as patch:
        # else Ray's workers yield to everything else that this machine does
        patch.setenv("RAY_worker_niceness", "0")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        # Ray waits 30 s for a node, which is too short on a busy machine: its clock goes slower
        slow = SimpleNamespace(monotonic=lambda: time.monotonic() / 8, sleep=time.sleep)
        patch.setattr("ray._private.node.time", slow)
        made = Nodes()
        yield made
        made.end()


def shards_of(folder: Path, *names: str) -> list[FileShard]:
    return [FileShard(name, folder) for name in names]


def test_each_shard_is_done_once_a_lost_worker_is_replaced_a_failure_reported(
    nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "ATTEMPTS", 2)
    engine = RayEngine(tmp_path / "locks", nodes.address)
    shards = shards_of(tmp_path, "a", "bad", "once", "deadly", "b", "c")
    found = {one.shard.name: one for one in engine.map(write, shards, Resources(0))}
    assert sorted(found) == sorted(one.name for one in shards)
    assert {name for name, one in found.items() if one.error} == {"bad", "deadly"}
    assert found["bad"].error == "no such luck"
    assert "lost 2 times" in found["deadly"].error
    begun = done_by(tmp_path)
    assert [begun.count(name) for name in found] == [
        2 if name in ("once", "deadly") else 1 for name in found
    ]
    again = list(engine.map(write, shards_of(tmp_path, "a", "b"), Resources(0)))
    assert not any(one.made or one.error for one in again)
    assert done_by(tmp_path) == begun


def test_a_killed_node_costs_what_it_was_doing(nodes: Nodes, tmp_path: Path) -> None:
    nodes.whole()
    shards = shards_of(tmp_path, *(f"s{number}" for number in range(40)))
    engine = RayEngine(tmp_path / "locks", nodes.address)
    pids = set()
    for count, done in enumerate(engine.map(write, shards, Resources(2)), 1):
        assert not done.error
        pids.add(done.value)
        if count == 10:
            nodes.kill()
    assert all(one.is_done() for one in shards)
    assert len(done_by(tmp_path)) <= len(shards) + 1  # one was in flight on that node
    assert len(pids) == 2


def test_a_run_on_the_cluster_that_loses_a_node_equals_a_local_run(
    nodes: Nodes, tmp_path: Path
) -> None:
    pytest.importorskip("torch", reason="the extra `local` is not installed")
    import polars as pl
    from pipeline_data import SMALL, write_data
    from polars.testing import assert_frame_equal
    from tiny import tiny_model_folder

    from trsr.config import load_config
    from trsr.pipeline import run
    from trsr.progress import Silent
    from trsr.storage.run_directory import RunDirectory

    nodes.whole()
    write_data(tmp_path)
    tiny_model_folder(tmp_path / "tiny")
    rank = '[rank]\nrankers = ["popular", "llm_zero_shot", "blend"]\n[rank.blend]\nmembers = '
    text = SMALL.replace("epochs = 2", "epochs = 0")
    (tmp_path / "small.toml").write_text(f'{text}\n{rank}["popular", "llm_zero_shot"]\n')

    class Kills(Silent):
        def __init__(self, stage: str) -> None:
            self.stage = stage
            self.notes: list[str] = []

        def advance(self, steps: int = 1, note: str = "") -> None:
            self.notes.append(note)
            if self.stage == "rank" and "2 of" in note:
                threading.Thread(target=nodes.kill).start()

    def made(name: str, *settings: str) -> list[Kills]:
        folder = tmp_path / name
        own = [f"run.folder={folder}", f"run.cache={folder}.sqlite", *settings]
        bars: list[Kills] = []

        def bar(stage: str) -> Kills:
            bars.append(Kills(stage))
            return bars[-1]

        list(run(load_config(tmp_path / "small.toml", own), bar))
        return bars

    made("local")
    bars = made("ray", "run.engine=ray", f"run.address={nodes.address}", "run.shard_size=4")
    assert "4 of 4 shards" in bars[1].notes[-1]
    assert "tokens/s" in bars[1].notes[-1]
    here, there = tmp_path / "local", tmp_path / "ray"
    for path in sorted(here.glob("*.parquet")):
        one, other = pl.read_parquet(path), pl.read_parquet(there / path.name)
        assert_frame_equal(one, other, rel_tol=1e-5, abs_tol=1e-5)
    infos = [
        [RunDirectory(one).records()[stage].info for one in (here, there)]
        for stage in ("summarize", "rank")
    ]
    for mine, theirs in infos:
        counts = ("queries", "asked", "tokens", "summaries", "empty", "unfit", "models")
        assert [mine.get(key) for key in counts] == [theirs.get(key) for key in counts]


def test_what_cannot_work_is_said(
    nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = shards_of(tmp_path, "a")
    engine = RayEngine(tmp_path / "locks", nodes.address, {"numpy": "0.1"})
    with pytest.raises(ConfigError, match=r"has other packages.* in place of 0\.1"):
        list(engine.map(write, shards, Resources(1)))
    engine = RayEngine(tmp_path / "locks", nodes.address)
    with pytest.raises(ConfigError, match=r"run\.worker_cpus.* 64 CPUs .* has \d and 0"):
        list(engine.map(write, shards, Resources(0, cpus=64)))
    unseen = cluster._Actor().check(tmp_path / "elsewhere" / "mark", {})
    assert f"does not see {tmp_path / 'elsewhere'}: all nodes must share" in unseen
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(ConfigError, match=r"run\.address: no Ray cluster answers at .*:1; start"):
        cluster.connect("127.0.0.1:1")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"run\.engine = ray needs ray.*trsr\[cluster\]"):
        cluster.connect("")
    assert not done_by(tmp_path)
