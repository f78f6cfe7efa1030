"""Tuning a summarizer as a whole, with a tiny model and a judge that likes a way of writing."""

from __future__ import annotations

import json
import shutil

import polars as pl
import pytest
from stopping import StopHereError, Stopping
from tune_judge import LIKED

from trsr.errors import ConfigError, DataError, StaleRunError, StoreError
from trsr.llm import ModelSettings, open_model
from trsr.llm.base import Sampling
from trsr.tune_summarizer import tune_summarizer
from trsr.tune_summarizer.keeping import read_kept

pytest.importorskip("torch", reason="the extra `local` is not installed")
pytestmark = pytest.mark.usefixtures("one_thread", "gold_judge")

WEIGHTS = ("model.safetensors", "adapter/adapter_model.safetensors", "kept.jsonl")


def outcome(folder):
    """All that a tuning gives, without the time that it took."""
    result = json.loads((folder / "summarizer.json").read_text())
    for round_ in result["rounds"]:
        del round_["seconds"]
    del result["seconds"]
    return result, [(folder / name).read_bytes() for name in WEIGHTS]


def test_what_is_kept_helps_the_judge_and_opens_as_a_model(prepared, tmp_path, taught_model):
    config = prepared()
    tuned = tune_summarizer(config, tmp_path / "tuned")
    assert tuned.kept == 1
    assert tuned.made
    measured = tuned.rounds[0].measured["log_likelihood"]
    assert measured["low"] > 0
    assert measured["p"] < 0.05
    assert measured["tuned"] - measured["untuned"] == pytest.approx(measured["difference"])
    # the merged folder is the base with the adapter, and writes as the judge likes it
    kept = read_kept(tmp_path / "tuned/kept.jsonl")
    prompts = [one.written[0].prompt for one in kept.values()]

    def texts(name, adapter=None):
        settings = ModelSettings(name=str(name), dtype="float32", device="cpu")
        model = open_model(settings, adapter)
        return [text for _, text in sorted(model.generate(prompts, Sampling(max_tokens=16)))]

    merged = texts(tmp_path / "tuned")
    assert merged == texts(taught_model, tmp_path / "tuned/adapter")
    assert merged.count(LIKED) > texts(taught_model).count(LIKED)
    page = (tmp_path / "tuned/summarizer.md").read_text()
    assert tuned.why[1:] in page
    assert page.count("- tuned:") == page.count("- kept:") == 2


def test_a_kept_sample_is_the_best_that_was_drawn(prepared, tmp_path, monkeypatch):
    from trsr.tune_summarizer import tuning

    drawn = {}
    ask = tuning.draw_summaries

    def watched(histories, **more):
        found = ask(histories, **more)
        for query, one in found.items():
            drawn.setdefault(query, []).append(one.summary.text)
        return found

    monkeypatch.setattr(tuning, "draw_summaries", watched)
    tune_summarizer(prepared(), tmp_path / "tuned")
    kept = read_kept(tmp_path / "tuned/kept.jsonl")
    assert kept
    for query, one in kept.items():
        greedy, *samples = drawn[query]
        assert LIKED in one.text
        assert LIKED not in greedy
        assert one.greedy == greedy
        assert one.text in samples
    # who is not among them has none that is liked, or wrote it before
    for query, (greedy, *samples) in drawn.items():
        if query.startswith("train") and query not in kept:
            assert LIKED in greedy or not any(LIKED in text for text in samples)


def test_only_training_and_validation_cases_are_read(prepared, tmp_path):
    config = prepared()
    tuned = tune_summarizer(config, tmp_path / "tuned")
    kept = read_kept(tmp_path / "tuned/kept.jsonl")
    assert {query.partition("/")[0] for query in kept} == {"train"}
    shown = [one["query"] for round_ in tuned.rounds for one in round_.shown]
    assert {query.partition("/")[0] for query in shown} == {"valid"}
    # whatever the test cases are, a readable file of somebody's own, it comes to the same
    other = prepared(f"run.outputs={tmp_path / 'other.sqlite'}")
    pl.DataFrame({"own": [1]}).write_parquet(other.run.folder / "cases.test.parquet")
    tune_summarizer(other, tmp_path / "again/tuned")
    assert outcome(tmp_path / "tuned") == outcome(tmp_path / "again/tuned")


def test_the_same_seed_gives_the_same_and_another_one_another(prepared, tmp_path):
    config = prepared()
    tune_summarizer(config, tmp_path / "tuned")
    fresh = prepared(f"run.outputs={tmp_path / 'other.sqlite'}")
    tune_summarizer(fresh, tmp_path / "again/tuned")
    assert outcome(tmp_path / "tuned") == outcome(tmp_path / "again/tuned")
    seeded = prepared("run.seed=7", "data.seed=0")
    tune_summarizer(seeded, tmp_path / "seeded")
    kept = [read_kept(tmp_path / name / "kept.jsonl") for name in ("tuned", "seeded")]
    assert kept[0] != kept[1]


def test_one_stopped_anywhere_ends_like_an_unbroken_one(prepared, tmp_path):
    two = ("tune_summarizer.rounds=2", "tune_summarizer.significant=false")
    whole = Stopping(10**9)
    assert len(tune_summarizer(prepared(*two), tmp_path / "tuned", whole).rounds) == 2
    config = prepared(*two, f"run.outputs={tmp_path / 'other.sqlite'}")
    # the fourth is stopped in the second round, and those after it do not make the first again
    for part in (0.1, 0.3, 0.45, 0.62, 0.1, 0.3):
        stop = Stopping(int(part * sum(whole.told)))
        with pytest.raises(StopHereError):
            tune_summarizer(config, tmp_path / "broken/tuned", stop)
        assert not (tmp_path / "broken/tuned/summarizer.json").exists()
    tune_summarizer(config, tmp_path / "broken/tuned")
    assert outcome(tmp_path / "tuned") == outcome(tmp_path / "broken/tuned")
    assert not (tmp_path / "broken/tuned/.work").exists()


def test_nothing_is_asked_twice(prepared, tmp_path, monkeypatch):
    config = prepared()
    tune_summarizer(config, tmp_path / "tuned")

    def refuse(self, feed, sampling):
        assert not [prompt for prompt in feed if prompt], "a prompt is asked again"
        return iter(())

    monkeypatch.setattr("trsr.llm.generate.Generator.answer", refuse)
    done = tune_summarizer(config, tmp_path / "tuned")
    assert not done.made
    assert done.kept == 1
    # the model is known by its name and its weights, wherever it lies
    tune_summarizer(config, tmp_path / "elsewhere/tuned")
    assert outcome(tmp_path / "tuned") == outcome(tmp_path / "elsewhere/tuned")


def test_where_nothing_is_better_no_model_is_written(prepared, tmp_path):
    config = prepared("tune_summarizer.margin=100")
    tuned = tune_summarizer(config, tmp_path / "tuned")
    assert tuned.kept == 0
    assert "nothing was trained" in tuned.why
    names = {path.name for path in (tmp_path / "tuned").iterdir()}
    assert names - {".lock"} == {"summarizer.json", "summarizer.md"}
    assert "keep the untuned summarizer" in (tmp_path / "tuned/summarizer.md").read_text()


def test_the_settings_of_stages_do_not_know_of_tuning(prepared, tmp_path):
    from trsr.pipeline import run_prepare

    prepared()
    assert not run_prepare(prepared("tune_summarizer.users=3")).made


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("summarize.strategy=none", "summarize.strategy: none asks no model"),
        ("prompts.use_summary=false", "the judge must be told the summary"),
        ("summarize.model.backend=scripted", "scripted has no weights here"),
        ("tune_summarizer.judge=llm", "has no trained adapter"),
        ("prompts.summary_of=another", "judged by its own user"),
    ],
)
def test_what_cannot_be_tuned_is_refused(prepared, tmp_path, setting, said):
    config = prepared(setting)
    with pytest.raises(ConfigError, match=said):
        tune_summarizer(config, tmp_path / "tuned")
    assert not (tmp_path / "tuned").exists()


def test_runs_that_lack_something_are_refused(prepared, tmp_path):
    prepared()
    without = ("data.split=global_time", "data.valid_share=0")
    other = prepared(*without, f"run.folder={tmp_path / 'novalid'}")
    with pytest.raises(DataError, match="no validation cases"):
        tune_summarizer(other, tmp_path / "a")
    long = prepared("summarize.block_items=50", "summarize.last_block=false")
    with pytest.raises(DataError, match=r"lower summarize\.block_items"):
        tune_summarizer(long, tmp_path / "b")
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(StaleRunError, match="tune-summarizer needs prepare"):
        tune_summarizer(long, tmp_path / "c")


def test_other_peoples_folders_and_other_settings_are_refused(prepared, tmp_path):
    config = prepared()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("…")
    with pytest.raises(StoreError, match=r"choose another --out"):
        tune_summarizer(config, tmp_path / "mine")
    with pytest.raises(StopHereError):
        tune_summarizer(config, tmp_path / "tuned", Stopping(3))
    said = r"tune_summarizer\.samples: 6 → 5"
    with pytest.raises(StaleRunError, match=said):
        tune_summarizer(prepared("tune_summarizer.samples=5"), tmp_path / "tuned")
    tune_summarizer(config, tmp_path / "tuned")
    with pytest.raises(StaleRunError, match=said):
        tune_summarizer(prepared("tune_summarizer.samples=5"), tmp_path / "tuned")
