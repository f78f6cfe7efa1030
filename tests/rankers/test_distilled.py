"""The ranker `distilled`: what it learns of a teacher that the test knows."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from fitting import given
from pipeline_data import FEW, write_data
from typer.testing import CliRunner

from trsr.cli.app import app
from trsr.config import load_config
from trsr.data import Catalog
from trsr.errors import ConfigError, DataError, PromptError, StoreError
from trsr.export.distilling import distill_run
from trsr.metrics.significance import rank_correlation
from trsr.pipeline import run as run_all
from trsr.planning import plan
from trsr.rankers import (
    FitData,
    FitOptions,
    QueryBatch,
    Ranker,
    RankSettings,
    ScoreBatch,
    distilled,
    read_rankings,
)
from trsr.rankers.distilled import LEAST, DistilledRanker
from trsr.recommender import Recommender
from trsr.settings import derive_seed
from trsr.storage.run_directory import RunDirectory
from trsr.types import Case, Interaction, Item, Query, UserHistory

pytestmark = pytest.mark.usefixtures("one_thread")
ITEMS = 90
USERS = 70


def item(number: int) -> Item:
    return Item(f"i{number:03}", (("title", f"thing {number}"),))


def catalog(items: int = ITEMS) -> Catalog:
    rows = [(one.id, one.fields[0][1]) for one in map(item, range(items))]
    return Catalog(pl.DataFrame(rows, schema=["id", "title"], orient="row"))


def case(user: int, split: str = "train", candidates: int = 5) -> Case:
    rng = np.random.default_rng(derive_seed(0, split, str(user)))
    drawn = [item(int(one)) for one in rng.choice(ITEMS, 6 + candidates, replace=False)]
    history = tuple(Interaction(one, float(time)) for time, one in enumerate(drawn[:6]))
    asked = Query(f"{split}/{user}", UserHistory(f"u{user}", history), tuple(drawn[6:]))
    return Case(asked, frozenset({drawn[6].id}))


CASES = [case(user) for user in range(USERS)]
LOG = pl.DataFrame(
    [
        (one.query.history.user, each.item.id, each.time)
        for one in CASES
        for each in one.query.history.interactions
    ],
    schema=["user", "item", "time"],
    orient="row",
)


class Planted(Ranker):
    """Likes what is like the history's items, and some items more than others."""

    def __init__(self, shuffled: bool = False, refused: str = "", flat: bool = False) -> None:
        super().__init__(resources=given(catalog()), name="llm")
        self.shuffled, self.refused, self.flat = shuffled, refused, flat
        self.embed = self.resources.embedder()
        self.asked: list[tuple[str, int]] = []

    def score(self, batch: QueryBatch) -> ScoreBatch:
        if self.refused in batch.ids:
            raise PromptError("too long")
        every = len(batch.catalog) + len(batch.outside)
        items = [batch.item(number) for number in range(every)]
        vectors = self.embed([f"thing {int(one.id[1:])}" for one in items])
        taste = np.stack([vectors[own].mean(axis=0) for own in _rows(batch)])
        likes = np.random.default_rng(1).normal(size=vectors.shape[1])
        found = (3 * taste @ vectors.T + 0.6 * vectors @ likes)[:, batch.columns]
        self.asked += [(name, len(batch.columns)) for name in batch.ids]
        if self.shuffled:
            for row, name in zip(found, batch.ids, strict=True):
                np.random.default_rng(derive_seed(0, name)).shuffle(row)
        return ScoreBatch(np.zeros_like(found) if self.flat else 0.01 * found - 4)


def _rows(batch: QueryBatch) -> list[np.ndarray]:
    return [batch.histories[row] for row in range(len(batch))]


def student(
    teacher: Ranker,
    cases: Iterable[Case] = CASES,
    of: Catalog | None = None,
    scores: int = 3000,
    **options: Any,
) -> DistilledRanker:
    settings = RankSettings(rankers=("distilled",), distilled={"scores": scores})
    resources = given(of or catalog(), settings, ranker=lambda name: teacher)
    ranker = DistilledRanker(settings.table("distilled"), resources, "distilled")
    ranker.fit(FitData(of or catalog(), LOG, training=lambda: iter(cases)), FitOptions(**options))
    return ranker


def ask(ranker: Ranker, shift: int = 0) -> np.ndarray:
    """[queries, candidates] scores for users of no training query, or with others' histories."""
    queries = [case(user, "test", 20).query for user in range(40)]
    others = [case(user + shift, "test", 20).query.history for user in range(40)]
    batch = QueryBatch.of(
        [replace(one, history=other) for one, other in zip(queries, others, strict=True)], catalog()
    )
    found = ranker.score(batch).scores
    return np.stack([found[row, batch.places[row]] for row in range(len(batch))])


def agreement(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.mean([rank_correlation(*pair) for pair in zip(one, other, strict=True)]))


def test_the_student_ranks_new_users_as_its_teacher_does() -> None:
    teacher = Planted()
    learned = student(teacher)
    assert agreement(ask(learned), ask(teacher)) > 0.95
    assert learned.chosen["spearman"] > 0.95
    # it reads the history
    assert agreement(ask(learned, shift=1), ask(teacher)) < 0.8
    # of a teacher without sense it learns nothing
    senseless = student(Planted(shuffled=True))
    assert abs(senseless.chosen["spearman"]) < 0.1
    assert abs(agreement(ask(senseless), ask(teacher))) < 0.3


def test_it_is_saved_and_fitted_the_same_again(tmp_path) -> None:
    one, again, other = (student(Planted(), seed=seed, scores=1200) for seed in (0, 0, 1))
    assert np.array_equal(ask(one), ask(again))
    assert not np.array_equal(ask(one), ask(other))
    one.save(tmp_path)
    loaded = DistilledRanker.load(tmp_path, given(catalog(), RankSettings(rankers=("distilled",))))
    assert np.array_equal(ask(one), ask(loaded))
    assert loaded.notes == one.notes
    assert "1,190 scores of llm for 70 queries" in one.notes["note"]


@pytest.mark.parametrize(("scores", "queries"), [(3000, 70), (500, 31), (10, 1)])
def test_the_teacher_is_asked_for_no_more_than_it_may_be(scores: int, queries: int) -> None:
    asked = []

    class Seen(Planted):
        def score(self, batch):
            asked.extend(batch.queries())
            return super().score(batch)

    found = student(Seen(), scores=scores)
    assert len(asked) == queries
    assert found.chosen["scores"] == sum(len(one.candidates) for one in asked) <= scores
    least = min(LEAST, scores)
    for one in asked:
        names = {item.id for item in one.candidates}
        assert len(names) >= least
        assert not names & {item.id for item in one.history.items}
    # another training seed asks the same: the response cache answers
    before = asked.copy()
    asked.clear()
    student(Seen(), scores=scores, train_seed=1)
    assert asked == before


def test_items_without_a_text_are_average_and_new_ones_are_read() -> None:
    frame = catalog().frame.with_columns(
        title=pl.when(pl.col("id") == item(3).id).then(None).otherwise("title")
    )
    found = student(Planted(), of=Catalog(frame.with_columns(pl.col("title").fill_null(""))))
    history = CASES[0].query.history
    asked = Query("q", history, (item(3), item(7), item(ITEMS + 5)))
    scores = {one.item: one.score for one in next(iter(found.rank([asked])))}
    assert len(set(scores.values())) == 3
    whole = QueryBatch.whole([("q", history, None)], found.resources.catalog)
    every = found.score(whole).scores[0]
    assert every[3] == 0
    assert len(set(every)) == ITEMS
    # nobody's history: the list that the teacher would give anybody
    nobody = QueryBatch.whole([("q", UserHistory("new", ()), None)], found.resources.catalog)
    assert len(set(found.score(nobody).scores[0])) == ITEMS


def test_of_one_user_nothing_is_claimed_for_others() -> None:
    learned = student(Planted(), scores=LEAST)
    assert (learned.chosen["queries"], learned.chosen["spearman"]) == (1, None)
    ask(learned)
    assert "for 1 query; all of one user, so nothing says" in learned.notes["note"]


def test_queries_that_do_not_fit_are_left_out_and_counted() -> None:
    assert student(Planted(refused="train/5")).chosen["unfit"] == 1


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"teacher": Planted(flat=True)}, DataError, "tells no candidates of the 70 training"),
        ({"cases": ()}, ConfigError, "there are none; raise data.train_users"),
        ({"of": Catalog(catalog().frame.with_columns(title=pl.lit("")))}, DataError, "has a text"),
    ],
)
def test_what_cannot_be_learned_is_said(options, error, message) -> None:
    with pytest.raises(error, match=message):
        student(**{"teacher": Planted()} | options)


SMALL = f"""{FEW}name = "./tiny"
scorer = "torch"

[summarize]
strategy = "keywords"

[train]
learning_rate = 3e-2

[rank]
rankers = ["popular", "llm", "blend"]
blend.members = ["popular", "llm"]
distilled.scores = 96
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_model) -> Path:
    folder = tmp_path_factory.mktemp("distilled")
    write_data(folder)
    (folder / "tiny").symlink_to(tiny_model)
    (folder / "mine.toml").write_text(SMALL, "utf-8")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        list(run_all(load_config("mine.toml")))
    return folder


def copied(trained: Path, to: Path) -> Path:
    """A copy of the trained run, with a response cache of its own."""
    shutil.copytree(trained, to, symlinks=True)
    settings = to / "runs" / "mine" / "config.toml"
    settings.write_text(settings.read_text().replace(f"{trained}/runs/resp", f"{to}/runs/resp"))
    return settings.parent


@pytest.fixture
def run(trained, tmp_path) -> Path:
    return copied(trained, tmp_path / "mine")


def asked(run: Path) -> int:
    info = RunDirectory(run).records()["rank"].info
    return sum(one["asked"] for one in info["models"].values())


def test_a_run_gets_a_row_that_a_kill_does_not_cost(run, trained, tmp_path, monkeypatch) -> None:
    other = copied(trained, tmp_path / "other")
    whole = distill_run(other)
    assert whole.notes[-1].startswith("distilled learned from 96 scores of llm. On 4 queries their")

    left = 2
    score = distilled.score_what_fits

    def killed(*given: Any):
        nonlocal left
        for one in score(*given):
            yield one
            left -= 1
            if not left:
                raise KeyboardInterrupt

    monkeypatch.setattr(distilled, "score_what_fits", killed)
    with pytest.raises(KeyboardInterrupt):
        distill_run(run)
    monkeypatch.setattr(distilled, "score_what_fits", score)
    done = CliRunner().invoke(app, ["distill", str(run)])
    assert done.exit_code == 0, done.output
    assert whole.notes[-1] in done.stdout
    assert asked(run) == asked(other) - 2 * LEAST
    # what shares a prefix is computed by another sum, so that a score may differ in its last digits
    lists = [read_rankings(one / "rankings.parquet")["distilled"].frame for one in (run, other)]
    for own, theirs in zip(*(one["scores"].to_list() for one in lists), strict=True):
        assert own == pytest.approx(theirs, abs=1e-3)

    report = json.loads((run / "report.json").read_text())
    assert list(report["rankers"]) == ["popular", "llm", "distilled", "blend"]
    assert report["costs"]["distilled"]["queries"] == 4
    notes = " ".join(report["table"]["notes"]) + json.dumps(report)
    assert "distilled: learned from 96 scores of llm for 6 queries" in notes
    # it ranks, proposes and is blended without the language model
    monkeypatch.setattr("trsr.recommender.open_ranking_model", lambda *_: pytest.fail("is asked"))
    found = Recommender.load(run, "distilled").recommend(["u1"], k=3)
    assert found.height == 3


def test_it_may_be_the_retriever_and_a_member(run) -> None:
    settings = ['rank.rankers=["popular","blend"]', 'rank.blend.members=["popular","distilled"]']
    list(run_all(load_config(run, [*settings, "rank.retriever=distilled"])))
    assert sorted(one.name for one in (run / "rankers").iterdir()) == [
        "blend",
        "distilled",
        "popular",
    ]
    assert Recommender.load(run).recommend(["u1"], k=3).height == 3


def test_the_scores_that_it_learns_from_are_planned(run) -> None:
    before, after = (
        plan(load_config(run, [f"rank.rankers={names}"]), machine="A10G").stages[-2]
        for names in ('["llm"]', '["llm","distilled"]')
    )
    assert (before.stage, after.stage) == ("rank", "rank")
    assert after.prompts == pytest.approx(before.prompts + 96)
    assert after.tokens > before.tokens


def test_a_run_without_a_trained_ranker_is_refused(run) -> None:
    done = CliRunner().invoke(app, ["distill", str(run), 'rank.rankers=["popular"]'])
    assert done.exit_code == 1
    assert "there is no trained ranker to learn from (rank.rankers: popular)" in str(done.exception)
    elsewhere = run.parent / "elsewhere"
    with pytest.raises(StoreError, match=f"{elsewhere}: not a run directory"):
        distill_run(elsewhere)
    with pytest.raises(StoreError, match=f"{elsewhere}: not a run directory"):
        distill_run(run, [f"run.folder={elsewhere}"])
