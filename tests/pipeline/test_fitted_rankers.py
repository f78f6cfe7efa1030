"""The fitted rankers of a run: made once, made again alone, and loaded to recommend."""

from __future__ import annotations

import dataclasses
import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from pipeline_data import CHEAP, SCRIPTED, write_data

from trsr.config import check_config, load_config
from trsr.errors import ConfigError, StoreError
from trsr.pipeline import (
    run,
    run_evaluate,
    run_prepare,
    run_rank,
    run_stage,
    run_summarize,
    run_train,
)
from trsr.rankers import read_rankings
from trsr.rankers.settings import ranker_class
from trsr.recommender import Recommender
from trsr.storage.run_directory import RunDirectory
from trsr.types import Item

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
    changed = load_config(path, [f"run.folder={folder}", "rank.sequential.hidden=4"])
    outcomes = [run_stage(changed, name) for name in ("prepare", "summarize", "train", "rank")]
    assert [one.stage for one in outcomes if one.made] == ["rank"]
    after = files(folder)
    # and what asks it
    assert {name for name in NAMES if before[name] != after[name]} == {"sasrec", "blend"}
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


@pytest.mark.parametrize(
    ("name", "blind"), [("item_knn", "item_knn"), ("bm25", ""), ("blend", "item_knn, sasrec")]
)
def test_a_new_item_that_a_ranker_cannot_judge_is_mentioned(ranked, caplog, name, blind) -> None:
    recommender = Recommender.load(ranked[0], name)
    query = next(iter(recommender.dataset.cases("test").queries()))
    new = Item("unheard", (("title", "Rose tea"),))
    list(recommender.rank([dataclasses.replace(query, candidates=(*query.candidates, new))]))
    told = f"new items: 1, such as 'unheard'; their scores by {blind} come from"
    assert told in caplog.text if blind else "unheard" not in caplog.text


def test_what_was_not_fitted_is_told(ranked, tmp_path) -> None:
    folder, _ = ranked
    with pytest.raises(StoreError, match=r"no ranker text_knn, but popular"):
        Recommender.load(folder, "text_knn")
    with pytest.raises(ConfigError, match="did you mean ease"):
        Recommender.load(folder, "eas")
    empty = tmp_path / "ease"
    empty.mkdir()
    (empty / "ranker.json").write_text(json.dumps({"ranker": "ease"}))
    resources = Recommender.load(folder, "ease").fitted("ease").resources
    with pytest.raises(StoreError, match="not a fitted ranker"):
        ranker_class("ease").load(empty, resources)


# --- A whole run with tuned rankers and a blend that holds a language model


def made(outcomes) -> list[str]:
    return [one.stage for one in outcomes if one.made]


@pytest.mark.timeout(300)
def test_a_blend_with_the_trained_model_runs_and_recommends_as_it_ranked(
    tmp_path, monkeypatch, small_run
):
    monkeypatch.chdir(tmp_path)
    path = small_run(tmp_path)
    changes = [
        "train.epochs=1",
        "train.validate_steps=0",
        'rank.rankers=["popular", "blend"]',
        'rank.blend.members=["item_knn", "bm25", "llm"]',
    ]
    config = load_config(path, changes)
    assert made(run(config)) == ["prepare", "summarize", "train", "rank", "evaluate"]
    folder = tmp_path / "runs" / "small"

    info = RunDirectory(folder).records()["rank"].info
    assert set(info["chosen"]) == {"blend"}
    assert set(info["chosen"]["blend"]["weights"]) == {"item_knn", "bm25", "llm"}
    # what the blend learns from is told the same as what it ranks: validation users have summaries
    summaries = RunDirectory(folder).records()["summarize"].info["summaries"]
    counts = json.loads((folder / "prepare.json").read_text())["counts"]
    assert summaries == counts["cases_train"] + counts["cases_valid"] + counts["cases_test"]

    assert made(run(config)) == []
    unused = load_config(path, [*changes, "rank.sequential.layers=3"])
    assert made(run(unused)) == []

    from trsr.rankers import read_rankings

    stored = list(read_rankings(folder / "rankings.parquet")["blend"])
    recommender = Recommender.load(folder, "blend")
    queries = list(recommender.dataset.cases("test").queries())
    again = list(recommender.rank(queries))
    assert again == stored

    used = load_config(path, [*changes, "rank.text_words=5"])
    assert made(run(used))[0] == "rank"


# --- Whole runs with the trained model asked without the user


@pytest.fixture
def one_run(tmp_path, monkeypatch, small_run):
    pytest.importorskip("torch", reason="the extra `local` is not installed")
    pytest.importorskip("scipy", reason="the extra `baselines` is not installed")
    monkeypatch.chdir(tmp_path)
    path = small_run(tmp_path)
    places = [f"run.folder={tmp_path / 'run'}", f"run.cache={tmp_path / 'out.sqlite'}"]
    return lambda *settings: load_config(path, [*settings, "train.epochs=1", *places])


@pytest.mark.timeout(300)
def test_a_run_trains_for_it_and_a_blend_takes_it_as_a_member(one_run):
    config = one_run('rank.rankers=["llm_item_only"]', "summarize.strategy=none")
    list(run(config))
    trained = RunDirectory(config.run.folder).records()["train"].info
    assert trained["steps"] > 0
    alone = scores_of(config, "llm_item_only")
    text = (config.run.folder / "report.md").read_text()
    assert "tiny, shown nothing of the user" in text
    both = one_run(
        'rank.rankers=["llm", "llm_item_only", "blend"]',
        'rank.blend.members=["llm", "llm_item_only"]',
        "summarize.strategy=none",
    )
    again = [one.stage for one in run(both) if one.made]
    assert "train" not in again
    assert scores_of(both, "llm_item_only") == pytest.approx(alone, abs=1e-5)
    chosen = RunDirectory(both.run.folder).records()["rank"].info["chosen"]["blend"]
    assert set(chosen["weights"]) == {"llm", "llm_item_only"}
    report = json.loads((both.run.folder / "report.json").read_text())
    assert {"llm", "llm_item_only", "blend"} <= set(report["rankers"])


def scores_of(config, name):
    lists = read_rankings(config.run.folder / "rankings.parquet")[name]
    return {(one.query, entry.item): entry.score for one in lists for entry in one}


def test_without_training_it_is_refused(one_run):
    config = one_run('rank.rankers=["llm_item_only"]')
    config = config.model_copy(update={"train": config.train.model_copy(update={"epochs": 0})})
    with pytest.raises(ConfigError, match="llm_item_only needs the trained model"):
        check_config(config.model_dump(exclude_none=True))


# --- A run whose training did not get far from guessing says so


pytest.importorskip("torch", reason="the extra `local` is not installed")

STEPS = [
    "train.cases_per_step=1",
    "train.validate_steps=0",
    "train.dropout=0",
    "data.train_users=3",
    "data.targets_per_user=1",
    "data.test_cases=3",
    "summarize.strategy=none",
    'rank.rankers=["popular", "llm"]',
]


@pytest.mark.parametrize(("rate", "epochs", "learned"), [("1e-9", 9, False), ("1e-2", 15, True)])
def test_a_training_that_hardly_learned_is_told(
    tmp_path, monkeypatch, small_run, rate, epochs, learned
):
    monkeypatch.chdir(tmp_path)
    own = (f"train.learning_rate={rate}", f"train.epochs={epochs}")
    config = load_config(small_run(tmp_path), [*STEPS, *own])
    list(run(config))
    info = RunDirectory(config.run.folder).records()["train"].info
    assert info["steps"] >= 25
    assert (info["late_loss"] < 0.95 * info["guess_loss"]) is learned
    assert info.get("hardly_learned", False) is not learned
    report = json.loads((config.run.folder / "report.json").read_text("utf-8"))
    notes = [note for note in report["table"]["notes"] if "training hardly learned" in note]
    assert [note.partition(":")[0] for note in notes] == ([] if learned else ["llm"])
    page = (config.run.folder / "report.html").read_text("utf-8")
    box = page.partition('id="warnings"')[2].partition("</section>")[0]
    assert ("training hardly learned" in box) is not learned
    assert page.count("training hardly learned") == box.count("training hardly learned")


def test_too_few_steps_to_tell_whether_training_learned_are_named(tmp_path, monkeypatch, small_run):
    monkeypatch.chdir(tmp_path)
    config = load_config(small_run(tmp_path), [*STEPS, "train.epochs=1"])
    list(run(config))
    info = RunDirectory(config.run.folder).records()["train"].info
    assert info["steps"] < 25
    assert "late_loss" not in info
    report = json.loads((config.run.folder / "report.json").read_text("utf-8"))
    (note,) = [one for one in report["table"]["notes"] if "too few to tell" in one]
    assert note.startswith(f"llm: the training took {info['steps']} steps")
    assert note in (config.run.folder / "report.html").read_text("utf-8")


# --- Data without times: what rests on them says so


@pytest.mark.parametrize("timed", [True, False])
def test_the_report_says_that_recent_popularity_has_no_times(tmp_path, timed: bool) -> None:
    write_data(tmp_path)
    if not timed:
        log = tmp_path / "clicks.csv"
        lines = log.read_text().splitlines()
        log.write_text("".join(f"{line.rsplit(',', 1)[0]}\n" for line in lines))
    (tmp_path / "mine.toml").write_text(CHEAP)
    run = tmp_path / "run"
    told = [f"run.folder={run}", "rank.rankers=['popular', 'popular_recent']"]
    config = load_config(tmp_path / "mine.toml", told)
    for stage in (run_prepare, run_summarize, run_train, run_rank, run_evaluate):
        stage(config)
    notes = json.loads((run / "report.json").read_text())["notes"]
    assert any("popular_recent: the data has no times" in note for note in notes) is not timed
