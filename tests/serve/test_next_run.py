"""From a service to the next run, and back onto the service's state."""

from __future__ import annotations

import json
import shutil
import time

import polars as pl
import pytest
from command_line import trsr
from served import ended, event, opened, small_run

from trsr.config import load_config
from trsr.errors import ConfigError, DataError
from trsr.pipeline import run
from trsr.recommender import Recommender
from trsr.serve.items import UnknownNameError
from trsr.serve.schemas import RecommendRequest
from trsr.storage.run_directory import RunDirectory
from trsr.types import Query

PREPARED = ("items", "interactions", "held_out", "cases.train", "cases.valid", "cases.test")


def settled(service):
    """Waits until no summary is due."""
    ends = time.monotonic() + 30
    while not service.summaries.idle:
        assert time.monotonic() < ends
        time.sleep(0.01)
    return service


def made(folder, config, *settings):
    list(run(load_config(config, [f"run.folder={folder}", *settings])))
    return folder


def later(user, items, start=90_000):
    return [event(user, item, start + n, f"{user}-{start + n}") for n, item in enumerate(items)]


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    """A run, a day of service, its log, and the run that was made of both."""
    folder = tmp_path_factory.mktemp("loop")
    first = small_run(folder)
    state = folder / "state.sqlite"
    service = settled(opened(first, state))
    service.put_item("p99", {"title": "a thing of today", "brand": "Ajax"})
    service.put_item("p3", {"title": "another name"})
    service.add_events(later("u1", [20, 21, 99, 22]) + later("new", [3, 99, 4, 5, 6, 7]))
    service.user("u2")
    service.delete_user("u2")
    settled(service)
    ended(service)
    database = f"sqlite:///{state}"
    words = ("--database", database, "--write-log", folder / "log")
    said = trsr("serve", first, *words, cwd=folder).stderr
    assert "10 events, 2 new or changed items, 1 deleted users" in " ".join(said.split())
    second = made(folder / "second", folder / "small.toml", f"data.service_log={folder / 'log'}")
    return folder, first, second, state


def test_the_next_run_is_that_of_files_which_hold_all_of_it(night, tmp_path) -> None:
    folder, _, second, _ = night
    lines = (folder / "clicks.csv").read_text().splitlines()
    lines = [line for line in lines if not line.startswith("u2,")]
    for user, items in (("u1", (20, 21, 99, 22)), ("new", (3, 99, 4, 5, 6, 7))):
        lines += [f"{user},p{item},{90_000 + n}" for n, item in enumerate(items)]
    (tmp_path / "clicks.csv").write_text("\n".join(lines) + "\n")
    goods = pl.read_ndjson(folder / "products.jsonl").with_columns(
        title=pl.when(pl.col("sku") == "p3").then(pl.lit("another name")).otherwise("title"),
        brand=pl.when(pl.col("sku") != "p3").then("brand"),
    )
    today = pl.DataFrame({"sku": ["p99"], "title": ["a thing of today"], "brand": ["Ajax"]})
    pl.concat([goods, today]).write_ndjson(tmp_path / "products.jsonl")
    (tmp_path / "small.toml").write_text((folder / "small.toml").read_text())
    whole = made(tmp_path / "whole", tmp_path / "small.toml")
    for name in (*PREPARED, "summaries.test", "rankings"):
        one, other = (pl.read_parquet(made / f"{name}.parquet") for made in (second, whole))
        assert one.equals(other), name
    assert "u2" not in set(pl.read_parquet(second / "interactions.parquet")["user"])
    # what yesterday's run and the service wrote is not asked again
    asked = [RunDirectory(one).records()["summarize"].info["asked"] for one in (second, whole)]
    assert asked[0] < asked[1] / 2


def test_the_next_run_goes_on_with_the_services_state(night, tmp_path) -> None:
    _, first, second, state = night
    copy = tmp_path / "state.sqlite"
    copy.write_bytes(state.read_bytes())
    before, users = opened(first, copy), ("u1", "u5", "new")
    for user in users:
        before.user(user)  # the run's own summaries are found when they are asked for
    settled(before)
    known = {user: before.user(user) for user in users}
    ended(before)
    service = settled(opened(second, copy))
    assert not service.store.has_user("u2")  # deleted, though yesterday's files hold it
    for user, view in known.items():
        assert [one.id for one in service.user(user).events] == [one.id for one in view.events]
        assert service.user(user).revisions == view.revisions  # the same words, not written again
    assert service.summaries.counts.calls == 0
    # what was new is the run's own now
    assert service.items.ready(1) == ([], 0)
    assert "p99" in service.recommender.catalog
    found = service.recommend(RecommendRequest(user="new", k=30))
    assert {one.item for one in found.items}.isdisjoint({"p3", "p99", "p4", "p5", "p6", "p7"})
    ended(service)


def test_another_summarizer_writes_its_own_summaries_and_mixes_with_none(night, tmp_path) -> None:
    folder, first, _, state = night
    copy = tmp_path / "state.sqlite"
    copy.write_bytes(state.read_bytes())
    other = made(
        tmp_path / "other",
        folder / "small.toml",
        f"data.service_log={folder / 'log'}",
        "summarize.strategy=hierarchical",
        "summarize.fan_in=2",
    )
    old = opened(first, copy)
    texts = [one.text for one in old.store.revisions("u1")]
    assert texts
    new = opened(other, copy)
    settled(new)
    own = [one.text for one in new.store.revisions("u1")]
    assert own
    assert own != texts
    # the old one still reads its own, and writes no more
    assert [one.text for one in old.store.revisions("u1")] == texts
    new.add_events(later("u1", [23, 24, 25], 95_000))
    settled(new)
    assert len(new.store.revisions("u1")) > len(own)
    assert [one.text for one in old.store.revisions("u1")] == texts
    ended(old)
    # a deletion takes the words of both
    removed = new.delete_user("u1")
    assert removed.revisions >= len(texts) + len(own)
    ended(new)
    again = opened(first, copy)
    assert again.store.revisions("u1") == []
    assert not again.store.has_user("u1")
    ended(again)


def test_an_item_that_the_next_run_lacks_stays_in_histories(night, tmp_path) -> None:
    folder, _, _, state = night
    copy = tmp_path / "state.sqlite"
    copy.write_bytes(state.read_bytes())
    rows = (folder / "clicks.csv").read_text().splitlines()
    who = next(row.split(",")[0] for row in rows if ",p5," in row and not row.startswith("u2,"))
    (tmp_path / "clicks.csv").write_text("\n".join(row for row in rows if ",p5," not in row) + "\n")
    goods = (folder / "products.jsonl").read_text().splitlines()
    left = [row for row in goods if '"sku": "p5"' not in row]
    (tmp_path / "products.jsonl").write_text("\n".join(left) + "\n")
    (tmp_path / "small.toml").write_text((folder / "small.toml").read_text())
    service = settled(opened(made(tmp_path / "run", tmp_path / "small.toml"), copy))
    assert "p5" in {one.item for one in service.user(who).events}
    assert "p5" not in {
        one.item for one in service.recommend(RecommendRequest(user="u1", k=30)).items
    }
    assert service.recommend(RecommendRequest(user=who, k=3)).items
    service.delete_user(who)
    assert not service.store.has_user(who)
    ended(service)


def test_whom_a_filter_left_out_can_be_deleted(night, tmp_path) -> None:
    service = opened(night[1], tmp_path / "state.sqlite")
    service.delete_user("u4")
    service.delete_user("u4")  # the run still has the user
    with pytest.raises(UnknownNameError):
        service.delete_user("nobody")
    service.add_events(later("u4", [1, 2]))
    assert service._also_seen(RecommendRequest(user="u4")) == frozenset()  # a new user
    ended(service)


@pytest.mark.parametrize(("unit", "wrong"), [(1, 1000), (1000, 1)])
def test_a_time_of_another_clock_is_refused(tmp_path, unit, wrong) -> None:
    small_run(tmp_path, "none", ("popular",))
    rows = [row.split(",") for row in (tmp_path / "clicks.csv").read_text().splitlines()[1:]]
    later = [f"{user},{item},{unit * (1_600_000_000 + int(when))}" for user, item, when in rows]
    (tmp_path / "clicks.csv").write_text("\n".join(["customer,sku,when", *later]) + "\n")
    run = made(tmp_path / "clock", tmp_path / "small.toml", "summarize.strategy=none")
    service = opened(run, tmp_path / "state.sqlite")
    service.add_events([event("u1", 1, 1_700_000_000 * unit)])
    with pytest.raises(DataError, match="are these (milli)?seconds"):
        service.add_events([event("u1", 2, 1_700_000_000 * wrong)])
    ended(service)


def test_a_run_that_is_served_is_not_made_anew_from_its_own_log(night, tmp_path) -> None:
    folder, first, _, _ = night
    served = tmp_path / "served"
    shutil.copytree(first, served)
    (served / "serve.sqlite").touch()
    config = folder / "small.toml", f"data.service_log={folder / 'log'}"
    with pytest.raises(ConfigError, match="is a run that was served.*name another folder"):
        made(served, *config)
    assert "p99" not in pl.read_parquet(served / "items.parquet")["id"]


@pytest.fixture(scope="module")
def tomorrow(night, tmp_path_factory):
    """The run of a log with products that nobody has met, with a retriever of each kind."""
    folder, found = night[0], tmp_path_factory.mktemp("tomorrow")
    shutil.copytree(folder / "log", found / "log")
    goods = pl.read_ndjson(folder / "products.jsonl")
    like = {f"p{100 + n}": goods.row(n, named=True) for n in (1, 2)}
    texts = [json.dumps({key: row[key] for key in ("title", "brand")}) for row in like.values()]
    items = pl.read_parquet(found / "log" / "items.parquet")
    more = pl.DataFrame({"id": list(like), "fields": texts})
    items.vstack(more).write_parquet(found / "log" / "items.parquet")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trsr.pipeline.stages.MOST_COLD", 0)
        for retriever in ("item_knn", "bm25"):
            made(
                found / retriever,
                folder / "small.toml",
                f"data.service_log={found / 'log'}",
                f"rank.retriever={retriever}",
                "summarize.strategy=none",
                'rank.rankers=["popular", "item_knn", "bm25"]',
            )
    return found


def test_products_that_nobody_has_met_are_judged_by_their_texts(tomorrow) -> None:
    recommender = Recommender.load(tomorrow / "item_knn", "item_knn")
    catalog = recommender.catalog
    query = Query("q", recommender.dataset.history("u1"), catalog.all)
    (ranked,) = recommender.rank([query])
    scores = {entry.item: entry.score for entry in ranked}
    # of the same text as p1 and p2, which people have met
    assert (scores["p101"], scores["p102"]) == pytest.approx((scores["p1"], scores["p2"]))
    # a history of one of them is as one of its neighbour
    both = {"a": ["p1", "p5"], "b": ["p101", "p5"]}
    lists = recommender.recommend(both, 25).partition_by("user", as_dict=True)
    one, other = (frame["item"].to_list() for frame in lists.values())
    apart = {"p1", "p101"}
    assert [item for item in one if item not in apart] == [
        item for item in other if item not in apart
    ]


def test_too_many_of_them_are_mentioned_where_the_retriever_knows_ids(tomorrow) -> None:
    notes = {name: (tomorrow / name / "report.md").read_text() for name in ("item_knn", "bm25")}
    said = "have no interaction to learn from"
    assert f"{said}: item_knn (rank.retriever)" in " ".join(
        notes["item_knn"].replace("\\", "").split()
    )
    assert said not in notes["bm25"]


def test_what_is_wrong_is_said(night, tmp_path) -> None:
    missing = tmp_path / "none.sqlite"
    words = ("--database", f"sqlite:///{missing}", "--write-log", tmp_path / "log")
    said = trsr("serve", night[1], *words, cwd=tmp_path, code=2).stderr
    assert "was not served yet" in " ".join(said.split())
    assert not missing.exists()
