"""The Ray engine on two nodes of this machine: shards once, lost workers and nodes, equal runs."""

from __future__ import annotations

import os
import random
import sys
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from engine_shards import FileShard, done_by, write

from trsr.engine import RayEngine, Resources, cluster, workers_kept
from trsr.errors import ConfigError
from trsr.progress import Silent

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
        # a node that lives, and is only slow on a busy machine, is not given up
        patch.setenv("RAY_health_check_timeout_ms", "60000")
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        # Ray waits 30 s for a node, which is too short on a busy machine: its clock goes slower
        slow = SimpleNamespace(
            monotonic=lambda: time.monotonic() / 8, sleep=time.sleep, time=time.time
        )
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


def test_workers_go_on_from_one_call_to_the_next(nodes: Nodes, tmp_path: Path) -> None:
    nodes.whole()
    engine = RayEngine(tmp_path / "locks", nodes.address)

    def pids(*names: str) -> set[str]:
        found = list(engine.map(write, shards_of(tmp_path, *names), Resources(1)))
        assert not any(one.error for one in found)
        return {one.value for one in found}

    with workers_kept():
        first = pids("a", "b")
        again = pids("c", "once")  # the second call's shard takes the worker along
        third = pids("d")
    assert first < again
    assert third == again - first
    assert not third & pids("e")


KILLS = int(os.environ.get("TRSR_NODE_KILLS", "1"))
"""The first is in the training: a node lost among shards has a test of its own. The long form is
`TRSR_NODE_KILLS=10 pytest tests/engine -k loses_nodes`."""


class KillingBar(Silent):
    """Progress that kills a node, and has it replaced, at some places of a stage's way.

    Args:
        nodes: The cluster.
        places: In hundredths.
    """

    def __init__(self, nodes: Nodes, places: Iterable[int] = ()) -> None:
        self.nodes, self.places = nodes, sorted(places)
        self.total, self.done, self.unit = 0, 0, ""
        self.notes: list[str] = []

    def begin(self, total: int | None, unit: str) -> None:
        self.total, self.done, self.unit = total or 0, 0, unit

    def advance(self, steps: int = 1, note: str = "") -> None:
        self.notes.append(note)
        self.done += steps
        at_work = " shards" in note or self.unit == "steps"
        while at_work and self.places and 100 * self.done >= self.total * self.places[0]:
            self.places.pop(0)
            self.nodes.kill()
            self.nodes.whole()


def assert_equal_tables(here: Path, there: Path) -> None:
    """Two runs have the same tables, but for rounding."""
    import polars as pl
    from polars.testing import assert_frame_equal

    trained = pl.col("ranker") == "llm"
    for path in sorted(here.glob("*.parquet")):
        one, other = pl.read_parquet(path), pl.read_parquet(there / path.name)
        if path.name == "rankings.parquet":  # a trained model's scores are as far off as training
            both = [
                frame.filter(trained).explode("items", "scores").sort("query", "items")
                for frame in (one, other)
            ]
            assert_frame_equal(*both, abs_tol=0.02)
            one, other = one.filter(~trained), other.filter(~trained)
        assert_frame_equal(one, other, rel_tol=1e-5, abs_tol=1e-5)


@pytest.mark.timeout(600 + 150 * KILLS)
def test_a_run_that_loses_nodes_again_and_again_equals_a_local_run(
    nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nodes die at random training steps and shards; what is begun again was in flight there."""
    pytest.importorskip("torch", reason="the extra `local` is not installed")
    from pipeline_data import SMALL, write_data
    from tiny import tiny_model_folder

    from trsr.config import load_config
    from trsr.pipeline import run
    from trsr.storage.run_directory import RunDirectory

    nodes.whole()
    write_data(tmp_path, users=KILLS + 12)
    tiny_model_folder(tmp_path / "tiny")
    rank = '[rank]\nrankers = ["popular", "llm_zero_shot", "llm", "blend"]\n[rank.blend]\n'
    text = f'{SMALL}dropout = 0\n{rank}members = ["popular", "llm_zero_shot"]\n'
    (tmp_path / "small.toml").write_text(text)
    draw = random.Random(KILLS)
    # a stage, and how far it is, in hundredths
    stages = ["train", *draw.choices(["summarize", "train", "rank"], k=KILLS - 1)]
    at = [(stage, draw.randint(10, 80)) for stage in stages]
    begun: Counter[str] = Counter()
    begin = cluster._Actors.begin

    def counted(fleet: Any, worker: int, shard: Any) -> None:
        begun[shard.name.split(",")[0]] += 1
        begin(fleet, worker, shard)

    monkeypatch.setattr(cluster._Actors, "begin", counted)

    def made(name: str, *settings: str) -> dict[str, KillingBar]:
        folder = tmp_path / name
        own = [f"run.folder={folder}", f"run.cache={folder}.sqlite", *settings]
        bars: dict[str, KillingBar] = {}

        def bar(stage: str) -> KillingBar:
            places = [place for one, place in at if (one, name) == (stage, "ray")]
            return bars.setdefault(stage, KillingBar(nodes, places))

        list(run(load_config(tmp_path / "small.toml", own), bar))
        return bars

    made("local")
    bars = made("ray", "run.engine=ray", f"run.address={nodes.address}", "run.shard_size=2")
    assert not any(bar.places for bar in bars.values())
    here, there = tmp_path / "local", tmp_path / "ray"
    assert_equal_tables(here, there)
    infos = {
        stage: [RunDirectory(one).records()[stage].info for one in (here, there)]
        for stage in ("summarize", "rank")
    }
    for mine, theirs in infos.values():
        counts = ("queries", "summaries", "empty", "unfit")
        assert [mine.get(key) for key in counts] == [theirs.get(key) for key in counts]
    for stage in ("summarize", "rank"):
        *_, last = (note for note in bars[stage].notes if " shards" in note)
        shards = int(last.split(" of ")[1].split()[0])
        lost = begun[stage] - shards
        assert 0 <= lost <= sum(one == stage for one, _ in at), (stage, begun, shards)
        sys.stdout.write(f"{stage}: {shards} shards, {lost} begun again\n")
    sys.stdout.write(f"killed at {sorted(at)}; training: {begun['train']} workers in all\n")


def test_what_cannot_work_is_said(
    nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = shards_of(tmp_path, "a")
    engine = RayEngine(tmp_path / "locks", nodes.address, {"numpy": "0.1"})
    with pytest.raises(ConfigError, match=r"has other packages.* in place of 0\.1"):
        list(engine.map(write, shards, Resources(1)))
    with pytest.raises(ConfigError, match=r"has other packages"):
        engine.check(Resources(1))
    engine = RayEngine(tmp_path / "locks", nodes.address)
    deadline = time.monotonic() + 120  # until Ray has noticed that a killed node is gone
    while (found := engine.check(Resources(1))) != 2 and time.monotonic() < deadline:
        time.sleep(0.2)
    assert found == 2
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
