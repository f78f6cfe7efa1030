"""A whole run over the full catalog: proposals, their recall, and no answer among them."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
from pipeline_data import configured, write_data

from trsr.config import load_config
from trsr.data import Dataset
from trsr.errors import ConfigError, DataError
from trsr.pipeline import run, run_evaluate, run_stage
from trsr.progress import Silent
from trsr.rankers import RANKERS, Ranker, ScoreBatch
from trsr.recommender import Recommender
from trsr.storage.run_directory import hash_file

CONFIG = configured(
    data={"candidates": "full"},
    summarize={"block_items": 3},
    rank={"rankers": ["random", "popular", "llm_zero_shot"], "retrieve_k": 7, "depth": 20},
)


def test_cheap_rankers_rank_all_and_a_model_orders_what_the_first_stage_proposes(tmp_path):
    write_data(tmp_path, users=30, items=60)
    (tmp_path / "full.toml").write_text(CONFIG)
    folder = tmp_path / "run"
    config = load_config(tmp_path / "full.toml", [f"run.folder={folder}"])
    list(run(config))
    dataset = Dataset.load(folder)
    cases = {case.query.id: case for case in dataset.cases("test")}
    rankings = pl.read_parquet(folder / "rankings.parquet")
    retrieve_k = dict(pl.read_parquet(folder / "retrieved.parquet").iter_rows())
    counts = dict(dataset.interactions["item"].value_counts().iter_rows())
    assert set(rankings["ranker"].unique()) == {"random", "popular", "llm_zero_shot"}
    found = 0
    for ranker, query, items in rankings.select("ranker", "query", "items").iter_rows():
        met = {item.id for item in cases[query].query.history.items}
        assert not met & set(items)
        assert len(items) == (7 if ranker == "llm_zero_shot" else 20)
        if ranker == "llm_zero_shot":
            assert set(items) == set(retrieve_k[query])
            found += bool(cases[query].relevant & set(items))
            worst = min(counts.get(item, 0) for item in items)
            others = {item.id for item in cases[query].query.candidates} - set(items)
            assert max(counts.get(item, 0) for item in others) <= worst
    report = json.loads((folder / "report.json").read_text())
    first = report["retriever"]
    assert (first["ranker"], first["retrieve_k"]) == ("popular", 7)
    assert first["recall"] == found / len(cases)
    # Not all are found; what is not found has 0 and stays in the mean.
    assert 0 < found < len(cases)
    per_query = pl.read_parquet(folder / "per_query.parquet").filter(ranker="llm_zero_shot")
    assert len(per_query) == len(cases)
    assert (per_query["recall@10"] > 0).sum() == found
    assert any("recall@7" in note for note in report["notes"])
    assert not [one for one in run(config) if one.made]


@pytest.mark.parametrize("rankers", [["llm_zero_shot", "blend"], ["blend", "llm_zero_shot"]])
def test_a_blend_with_a_model_orders_proposals_whichever_stands_first(tmp_path, rankers):
    pytest.importorskip("scipy")
    write_data(tmp_path, users=30, items=60)
    (tmp_path / "full.toml").write_text(CONFIG)
    told = [
        f"rank.rankers={json.dumps(['popular', *rankers])}",
        'rank.blend.members=["popular","llm_zero_shot"]',
    ]
    list(run(load_config(tmp_path / "full.toml", [f"run.folder={tmp_path / 'run'}", *told])))
    rankings = pl.read_parquet(tmp_path / "run" / "rankings.parquet")
    sizes = {
        name: set(rankings.filter(ranker=name)["items"].list.len())
        for name in ("popular", "llm_zero_shot", "blend")
    }
    assert sizes == {"popular": {20}, "llm_zero_shot": {7}, "blend": {7}}


def test_another_first_stage_proposes_anew(tmp_path):
    pytest.importorskip("bm25s")
    write_data(tmp_path, users=30, items=60)
    (tmp_path / "full.toml").write_text(CONFIG)

    def proposed(*more):
        told = [f"run.folder={tmp_path / 'run'}", "rank.retriever=bm25", *more]
        made = [one.stage for one in run(load_config(tmp_path / "full.toml", told)) if one.made]
        return made, pl.read_parquet(tmp_path / "run" / "retrieved.parquet")["items"].to_list()

    _, before = proposed()
    # No ranker of the table reads texts: the first stage alone does.
    made, after = proposed("rank.text_words=1")
    assert "rank" in made
    assert after != before
    made, again = proposed("rank.text_words=1")
    assert not made
    assert again == after


def test_data_prepared_before_cases_told_what_was_met_is_prepared_again(tmp_path):
    write_data(tmp_path, users=30, items=60)
    (tmp_path / "full.toml").write_text(CONFIG)
    folder = tmp_path / "run"
    config = load_config(tmp_path / "full.toml", [f"run.folder={folder}"])
    run_stage(config, "prepare")
    path = folder / "cases.test.parquet"
    pl.read_parquet(path).drop("seen").write_parquet(path)
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["stages"]["prepare"]["settings"]["format of cases"]
    manifest["stages"]["prepare"]["files"][path.name] = hash_file(path)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="run `trsr prepare` again"):
        Dataset.load(folder).cases("test")
    assert "format of cases" in run_stage(config, "prepare").why
    assert Dataset.load(folder).cases("test").full


def test_what_cannot_work_is_told_beforehand(tmp_path):
    (tmp_path / "full.toml").write_text(CONFIG)
    with pytest.raises(ConfigError) as caught:
        load_config(
            tmp_path / "full.toml", ["rank.retriever=llm_zero_shot", "evaluate.metrics=['ndcg@50']"]
        )
    assert "without a language model" in str(caught.value)
    blended = ["rank.retriever=blend", "rank.blend.members=['popular', 'llm_zero_shot']"]
    with pytest.raises(ConfigError, match=r"rank\.retriever: .*itself or blended"):
        load_config(tmp_path / "full.toml", blended)
    load_config(tmp_path / "full.toml", ["rank.retriever=blend"])  # of cheap ones
    with pytest.raises(ConfigError) as caught:
        load_config(
            tmp_path / "full.toml", ["rank.retriever=llm_zero_shot", "evaluate.metrics=['ndcg@50']"]
        )
    assert "20 places cannot tell a metric @50" in str(caught.value)


def test_evaluating_long_lists_tells_how_far_it_is(tmp_path):
    class Told(Silent):
        def __init__(self):
            self.total, self.done, self.notes = 0, 0, []

        def begin(self, total, unit):
            self.total = total

        def advance(self, steps=1, note=""):
            self.done += steps
            self.notes.append(note)

    write_data(tmp_path, users=8, items=30)
    (tmp_path / "full.toml").write_text(CONFIG)
    settings = [f"run.folder={tmp_path / 'run'}", 'rank.rankers=["random", "popular"]']
    settings.append("evaluate.trec=true")
    config = load_config(tmp_path / "full.toml", settings)
    for stage in ("prepare", "summarize", "train", "rank"):
        run_stage(config, stage)
    told = Told()
    run_evaluate(config, told)
    lists = pl.read_parquet(tmp_path / "run" / "rankings.parquet").height
    assert told.done == told.total == 2 * lists  # their metrics, and their TREC files
    assert set(told.notes) == {
        f"{name}{work}" for name in ("random", "popular") for work in ("", ", TREC run")
    }


class Wrong(Ranker):
    """By the candidates' order; wrong in one way from the third query on."""

    how = "unknown"

    def score(self, batch):
        found = batch.blank() - np.arange(len(batch.columns))
        if self.how == "few":
            return ScoreBatch(found[:, :3])
        found[2:, -1] = np.nan
        return ScoreBatch(found)


@pytest.fixture
def wrong(tmp_path, monkeypatch):
    """Makes a run with a ranker called `wrong`, wrong in one way."""
    write_data(tmp_path, users=30, items=60)
    (tmp_path / "full.toml").write_text(CONFIG)

    def make(how, *changes):
        monkeypatch.setattr(Wrong, "how", how)
        monkeypatch.setitem(RANKERS._own, "wrong", f"{__name__}:Wrong")
        told = [f"run.folder={tmp_path / 'run'}", *changes]
        return list(run(load_config(tmp_path / "full.toml", told)))

    return make


@pytest.mark.parametrize(
    "changes",
    [["rank.rankers=['wrong']"], ["rank.rankers=['llm_zero_shot']", "rank.retriever=wrong"]],
)
@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("few", r"gave scores of the shape \(\d+, 3\) where \(\d+, \d+\) was due, .* test/"),
        ("unknown", r"query test/.*: a score is not a number"),
    ],
)
def test_a_ranker_that_scores_otherwise_than_asked_is_refused(wrong, changes, how, said):
    with pytest.raises(DataError, match=f"^the ranker wrong.*{said}"):
        wrong(how, *changes)


def test_who_is_recommended_to_is_told_of_a_wrong_ranker_too(wrong, tmp_path):
    with pytest.raises(DataError):
        wrong("few", "rank.rankers=['wrong']")
    folder = tmp_path / "run"
    (query, *_) = Dataset.load(folder).cases("test").queries()
    with pytest.raises(DataError, match=r"^the ranker wrong gave .* from query test/u"):
        list(Recommender.load(folder, "wrong").rank([query]))
