"""The fitted rankers of a run: made once, made again alone, and loaded to recommend."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from pipeline_data import SCRIPTED, write_data

from trsr.config import load_config
from trsr.errors import ConfigError, StoreError
from trsr.pipeline import run, run_stage
from trsr.rankers import read_rankings
from trsr.rankers.settings import ranker_class
from trsr.recommender import Recommender

NAMES = [
    "popular",
    "popular_recent",
    "bm25",
    "item_knn",
    "ease",
    "sasrec",
    "llm_zero_shot",
    "blend",
]
MORE = f"""
[prompts]
domain = "products"

[rank]
rankers = {NAMES}
retriever = "item_knn"

[rank.blend]
members = ["item_knn", "bm25", "sasrec", "llm_zero_shot"]

[rank.sequential]
hidden = 8
max_epochs = 1
"""


@pytest.fixture(scope="module")
def ranked(tmp_path_factory):
    """A whole run's folder, and its configuration."""
    folder = tmp_path_factory.mktemp("fitted")
    write_data(folder)
    text = SCRIPTED.replace('[rank]\nrankers = ["random", "popular"]\n', "")
    (folder / "mine.toml").write_text(text + MORE, "utf-8")
    list(run(load_config(folder / "mine.toml", [f"run.folder={folder / 'run'}"])))
    return folder / "run", folder / "mine.toml"


def files(folder) -> dict[str, str]:
    """Ranker → what it was made of, as its key says."""
    return {one.name: (one / "key.json").read_text() for one in (folder / "rankers").iterdir()}


def test_each_ranker_is_kept_and_a_changed_setting_makes_one_again(ranked) -> None:
    folder, path = ranked
    before = files(folder)
    assert set(before) == set(NAMES)
    changed = load_config(path, [f"run.folder={folder}", "rank.text_words=5"])
    outcomes = [run_stage(changed, name) for name in ("prepare", "summarize", "train", "rank")]
    assert [one.stage for one in outcomes if one.made] == ["rank"]
    after = files(folder)
    # and what asks it
    assert {name for name in NAMES if before[name] != after[name]} == {"bm25", "blend"}
    list(run(load_config(path, [f"run.folder={folder}"])))


def test_a_stage_that_was_stopped_goes_on_behind_the_last_fitted_ranker(
    ranked, monkeypatch
) -> None:
    folder, path = ranked
    made = []
    owner = ranker_class("bm25")
    fit = owner.fit
    monkeypatch.setattr(
        owner, "fit", lambda self, *given: (made.append(self.name), fit(self, *given))
    )
    monkeypatch.setattr(ranker_class("sasrec"), "fit", lambda *given: 1 / 0)
    changes = ["rank.text_words=4", "rank.sequential.hidden=4"]
    config = load_config(path, [f"run.folder={folder}", *changes])
    with pytest.raises(ZeroDivisionError):
        list(run(config))
    assert made == ["bm25"]
    monkeypatch.undo()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, "fit", lambda *given: 1 / 0)
        list(run(config))
    list(run(load_config(path, [f"run.folder={folder}"])))


@pytest.mark.parametrize("name", NAMES)
def test_a_recommender_fits_nothing_and_ranks_as_the_run_did(ranked, name, monkeypatch) -> None:
    folder, _ = ranked
    for one in NAMES:
        if ranker_class(one).learns():
            monkeypatch.setattr(ranker_class(one), "fit", lambda *given: 1 / 0)
    stored = {one.query: one for one in read_rankings(folder / "rankings.parquet")[name]}
    recommender = Recommender.load(folder, name)
    queries = list(recommender.dataset.cases("test").queries())
    assert len(recommender.propose(queries[0].history, 3)) == 3
    for found in recommender.rank(queries):
        assert [e.item for e in found] == [e.item for e in stored[found.query]]
        assert [e.score for e in found] == pytest.approx([e.score for e in stored[found.query]])


def test_several_threads_may_use_one_recommender(ranked) -> None:
    folder, _ = ranked
    recommender = Recommender.load(folder, "blend")
    queries = list(recommender.dataset.cases("test").queries())
    alone = {one.id: next(recommender.rank([one])) for one in queries}
    fresh = Recommender.load(folder, "blend")

    def asked(turn: int):
        order = queries[turn:] + queries[:turn]
        proposed = fresh.propose(order[0].history, 5)
        return proposed, [next(fresh.rank([one])) for one in order]

    with ThreadPoolExecutor(6) as pool:
        for turn, (proposed, lists) in enumerate(pool.map(asked, range(6))):
            assert proposed == recommender.propose(queries[turn].history, 5)
            assert all(one == alone[one.query] for one in lists)


def test_what_was_not_fitted_is_told(ranked, tmp_path) -> None:
    folder, _ = ranked
    with pytest.raises(StoreError, match=r"no fitted ranker text_knn; name it in rank\.rankers"):
        Recommender.load(folder, "text_knn")
    with pytest.raises(ConfigError, match="did you mean ease"):
        Recommender.load(folder, "eas")
    empty = tmp_path / "ease"
    empty.mkdir()
    (empty / "ranker.json").write_text(json.dumps({"ranker": "ease"}))
    resources = Recommender.load(folder, "ease").fitted("ease").resources
    with pytest.raises(StoreError, match="not a fitted ranker"):
        ranker_class("ease").load(empty, resources)
