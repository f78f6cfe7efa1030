"""Whole runs whose model is trained beside a prior, and settings that a prior contradicts."""

from __future__ import annotations

import json
from statistics import fmean

import pytest

from trsr.cli.show import lines as shown
from trsr.config import check_config, load_config
from trsr.errors import ConfigError, StoreError
from trsr.pipeline import run
from trsr.pipeline.stages import STAGES
from trsr.rank import YesNoRanker, p_yes, read_rankings
from trsr.rank.blend import standardized
from trsr.rank.prior import Prior
from trsr.recommender import Recommender, judge
from trsr.store.rundir import RunDirectory
from trsr.types import Interaction, Item, Query, UserHistory

NONE = ["summarize.strategy=none", "train.epochs=1", 'rank.rankers=["item_knn", "llm"]']
KNN = [*NONE, "train.prior=item_knn"]


def made(outcomes) -> list[str]:
    return [one.stage for one in outcomes if one.made]


@pytest.fixture
def one_run(tmp_path, monkeypatch, small_run):
    """Makes runs in one folder; returns its path and all that was made."""
    pytest.importorskip("torch", reason="the extra `local` is not installed")
    monkeypatch.chdir(tmp_path)
    path = small_run(tmp_path)

    def make(settings, folder="run"):
        places = [f"run.folder={tmp_path / folder}", f"run.outputs={tmp_path / 'out.sqlite'}"]
        return load_config(path, [*settings, *places])

    return make


@pytest.mark.timeout(300)
@pytest.mark.parametrize("loss", ["listwise", "answer"])
def test_the_trained_model_is_trained_validated_ranked_and_served_with_its_prior(
    one_run, loss
) -> None:
    config = one_run([*KNN, f"train.loss={loss}"])
    assert made(run(config)) == ["prepare", "summarize", "train", "rank", "evaluate"]
    folder = config.run.folder
    prior = Prior.read(folder / "adapter")
    assert prior is not None
    records = RunDirectory(folder).records()
    assert records["train"].info["prior"] == {
        **{"ranker": "item_knn", "weight": prior.weight, "folds": 5},
        "why": "likeliest on 5 validation cases",
    }
    chosen = records["rank"].info["chosen"]
    assert chosen["llm"] == {
        **{"prior": "item_knn", "prior_weight": prior.weight},
        "prior_chosen": chosen["item_knn"],
    }

    # ranked: the adapter's margin and the weighted prior, whose ranker is a row of its own here
    rankings = read_rankings(folder / "rankings.parquet")
    recommender = Recommender.load(folder)
    queries = list(recommender.dataset.cases("test").queries())
    margins = YesNoRanker(*judge(config, folder / "adapter")).rank(queries)
    for ranked, own, cheap in zip(rankings["llm"], margins, rankings["item_knn"], strict=True):
        added = standardized(cheap)
        wanted = {entry.item: entry.score + prior.weight * added[entry.item] for entry in own}
        assert {entry.item: entry.score for entry in ranked} == pytest.approx(wanted, abs=1e-5)

    # told: these scores as probabilities that the prior has a say in, and whether they were trained
    told = json.loads((folder / "report.json").read_text("utf-8"))["calibration"]
    scores = [entry.score for ranked in rankings["llm"] for entry in ranked]
    assert told["llm"]["mean"] == pytest.approx(fmean(map(p_yes, scores)))
    assert told["llm"]["called"] == "p(yes) with its prior"
    pages = [(folder / name).read_text("utf-8") for name in ("report.html", "report.md")]
    users = pages[0].partition('id="users"')[2]
    assert '<th scope="col">p(yes) with its prior</th>' in users
    for words in (*pages, users):
        assert "is not what the language model alone says" in words
    for words in pages:
        assert ("nothing has held these" in words) == (loss == "listwise")

    # served: the same, and items and users that nobody met
    assert list(recommender.recommend(queries)) == list(rankings["llm"])
    new = Item("new", (("title", "steel bolt"),))
    known = next(iter(recommender.catalog))
    asked = Query("q", UserHistory("somebody", (Interaction(new, 0.0),)), (known, new))
    (ranked,) = recommender.recommend([asked])
    assert {entry.item for entry in ranked} == {"new", known.id}
    assert any("ranked by llm" in line for line in shown(folder, queries[0].history.user))

    assert made(run(config)) == []
    assert made(run(one_run([*KNN, f"train.loss={loss}", "rank.ease.penalty=[7]"]))) == []
    other = one_run([*KNN, f"train.loss={loss}", "rank.item_knn.shrinkage=[3]"])
    assert made(run(other))[:2] == ["train", "rank"]


@pytest.mark.timeout(300)
def test_a_run_without_a_prior_is_recorded_as_before_there_were_any(one_run) -> None:
    config = one_run([*NONE, "train.prior_weight=3", "train.prior_folds=2"])
    list(run(config))
    records = RunDirectory(config.run.folder).records()
    assert not [key for key in records["train"].settings["train"] if "prior" in key]
    own = {"train", "words", "judge_plain", "prompts", "model", "run"}
    assert set(records["train"].settings) == own
    assert set(records["rank"].settings["rank"]) == {
        *("rankers", "item_knn", "tune_on", "tune_cases")
    }
    assert "interactions.parquet" not in records["train"].parents
    assert not (config.run.folder / "adapter" / "prior.json").exists()
    assert "prior" not in records["train"].info
    page = (config.run.folder / "report.html").read_text("utf-8")
    assert '<th scope="col">p(yes)</th>' in page
    assert "with its prior" not in page
    assert made(run(one_run(NONE))) == []


@pytest.mark.timeout(300)
def test_an_adapter_trained_beside_another_prior_is_refused(one_run) -> None:
    config = one_run([*KNN, "train.prior_weight=-0.5", "train.validate_steps=0"])
    list(run(config))
    adapter = config.run.folder / "adapter"
    assert json.loads((adapter / "prior.json").read_text()) == {
        "ranker": "item_knn",
        "weight": -0.5,
    }
    without = one_run([*NONE, "train.validate_steps=0"])
    with pytest.raises(StoreError, match=r"trained with the prior item_knn, but .* ''; set it to"):
        judge(without, adapter)
    (adapter / "prior.json").unlink()
    with pytest.raises(StoreError, match="trained with no prior, but train.prior is 'item_knn'"):
        judge(config, adapter)


def test_the_files_that_the_prior_reads_are_the_stage_s_parents_only_with_a_prior(one_run) -> None:
    (train,) = (stage for stage in STAGES if stage.name == "train")
    own = {"interactions.parquet", "cases.valid.parquet"}  # it is fitted, and weighed
    unvalidated = "train.validate_steps=0"
    assert set(train.reads_more(one_run([*KNN, unvalidated]))) == own
    assert own < set(train.reads_more(one_run([*KNN, "train.validate_steps=5"])))
    assert train.reads_more(one_run([*NONE, unvalidated])) == ()
    assert not train.reads_more(one_run([*KNN, 'rank.rankers=["popular"]']))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"train": {"prior": "item_kn"}}, "train.prior: there is no ranker 'item_kn': did you"),
        ({"train": {"prior": "llm"}}, "train.prior: name a cheap ranker"),
        ({"train": {"prior": "untuned"}}, "train.prior: name a cheap ranker"),
        (
            {"train": {"prior": "blend"}, "rank": {"blend": ["popular", "llm"]}},
            "train.prior: name a cheap ranker",
        ),
        (
            {"train": {"prior": "popular", "loss": "text"}},
            "train.prior: the loss text has no place for a prior; set train.loss to answer or list",
        ),
        ({"train": {"prior": "popular", "prior_folds": 1}}, "train.prior_folds: "),
        ({"train": {"prior": "popular", "prior_weight": float("nan")}}, "train.prior_weight: "),
    ],
)
def test_settings_that_contradict_a_prior_are_refused(settings, said) -> None:
    with pytest.raises(ConfigError) as caught:
        check_config({"data": {"dataset": "ml-100k"}} | settings)
    assert said in str(caught.value)


def test_a_prior_whose_weight_cannot_be_learned_is_refused(one_run) -> None:
    nobody = [*KNN, "data.split=rows", "data.valid_share=0", "data.valid_cases=0"]
    nobody += ["train.validate_steps=0"]
    with pytest.raises(ConfigError, match="train.prior_weight: 0 has the weight learned on valid"):
        list(run(one_run(nobody)))
    given = one_run([*nobody, "train.prior_weight=1.0"])
    # it was refused as soon as the cases were counted
    assert made(run(given)) == ["summarize", "train", "rank", "evaluate"]
