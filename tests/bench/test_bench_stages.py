"""The benches over real data files, with a tiny model: what they count, and what they compare."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
from pipeline_data import write_data

from benchmarks import timing as bench_clock
from benchmarks.options import (
    OverheadOptions,
    PrepareOptions,
    ScoreOptions,
    SummarizeOptions,
    VectorsOptions,
)
from benchmarks.overhead import bench_overhead
from benchmarks.prepare import bench_prepare, write_events
from benchmarks.records import Place
from benchmarks.score import bench_score, judged, prepared
from benchmarks.summarize import PlainGenerate, bench_summarize
from benchmarks.timing import Clock, clocked
from benchmarks.vectors import bench_vectors
from trsr.config import load_config
from trsr.errors import DataError
from trsr.models.base import Sampling
from trsr.models.scripted import ScriptedModel
from trsr.progress import Silent
from trsr.testing import some_prompts

HERE = Place("cpu", "float32", 1e10)

SETTINGS = """
[data]
interactions = "clicks.csv"
items = "products.jsonl"
min_history = 4
negatives = 6
train_negatives = 2

[model]
name = "{model}"
dtype = "float32"
device = "cpu"

[prompts]
words = 6
summary_item_words = 6

[summarize]
block_items = 3

[summarize.sampling]
max_tokens = 5

[train]
epochs = 0

[rank]
rankers = ["llm_zero_shot"]
"""


@pytest.fixture
def config_file(tmp_path, tiny_model, monkeypatch):
    monkeypatch.setenv("TRSR_CACHE", str(tmp_path / "cache"))  # for what openvino is handed
    monkeypatch.chdir(tmp_path)  # where a run directory would be
    write_data(tmp_path, items=60)
    path = tmp_path / "mine.toml"
    path.write_text(SETTINGS.format(model=tiny_model))
    return path


@pytest.fixture
def config(config_file):
    return load_config(config_file)


def test_real_queries_are_scored_through_the_tree_as_pairwise(config, tiny_settings, tiny):
    load = judged("mine", config, tiny, queries=3, candidates=10)
    assert load.name == "mine-10"
    assert load.sizes == (10, 10, 10)
    assert [len(call) for call in load.calls] == [30]
    assert len(set(load.prompts)) == 30
    result = bench_score(tiny, [load], ScoreOptions(repeats=1), Silent(), HERE)[0]
    note = next(note for note in result.notes if note.startswith("tree: largest"))
    assert float(note.split("score ")[1].split(",")[0]) < 1e-4
    assert {record.variant for record in result.records} >= {"mine-10/pairwise", "mine-10/tree"}
    # the instruction and the user are shared, so much is saved
    assert result.records[0].token_ratio > 3


def test_summaries_of_a_finished_run_are_told(config, tiny):
    import polars as pl

    with prepared(config, queries=2) as dataset:
        queries = [case.query for case in dataset.cases("test")]
    before = judged("mine", config, tiny, queries=2, candidates=5)
    config.run.folder.mkdir(parents=True)
    columns = {
        "query": [query.id for query in queries],
        "user": [query.history.user for query in queries],
        "text": ["The user likes hinges."] * 2,
        "covers": [3] * 2,
        "sources": [[]] * 2,
    }
    pl.DataFrame(columns, schema_overrides={"sources": pl.List(pl.String)}).write_parquet(
        config.run.folder / "summaries.test.parquet"
    )
    after = judged("mine", config, tiny, queries=2, candidates=5)
    texts = [tiny.chat_format.tokenizer.decode(load.prompts[0]) for load in (before, after)]
    assert "The user likes hinges." not in texts[0]
    assert "The user likes hinges." in texts[1]


def test_plain_generate_gives_greedy_texts_whatever_the_batch(tiny):
    prompts = some_prompts(5)
    sampling = Sampling(max_tokens=6)
    alone = dict(PlainGenerate(tiny, 1).generate(prompts, sampling))
    together = dict(PlainGenerate(tiny, 3).generate(prompts, sampling))
    assert alone == together == dict(tiny.generate(prompts, sampling))
    with pytest.raises(ValueError, match="greedily"):
        list(PlainGenerate(tiny, 1).generate(prompts, Sampling(temperature=1.0)))


def test_summaries_are_made_anew_in_every_repeat_and_counted(config):
    result = bench_summarize(
        "mine",
        config,
        SummarizeOptions(users=3, alone_users=2, batches=(3,), repeats=2),
        Silent(),
        HERE,
    )
    by_name = {record.variant.rpartition("/")[2]: record for record in result.records}
    assert {"generate-1", "generate-3", "transformers"} <= set(by_name)
    alone, batch = by_name["generate-1"], by_name["generate-3"]
    assert alone.ratio == 1.0
    speeds = [one.prompts / one.seconds for one in (alone, batch)]
    assert batch.ratio == pytest.approx(speeds[1] / speeds[0])
    # each user has at least 7 interactions before the last, so at least 2 steps of 3
    assert alone.prompts >= 4
    assert batch.prompts >= 6
    assert by_name["transformers"].prompts == batch.prompts
    for record in result.records:
        assert record.token_ratio > 1
        assert record.peak_share > 0
    notes = "\n".join(result.notes)
    assert f"generate-1: 2 users, {alone.prompts} prompts" in notes
    assert "times generate at its best batch size (" in notes


def test_preparing_is_measured_in_its_own_process_and_compared_by_rate():
    result = bench_prepare(
        PrepareOptions(interactions=(2_000, 6_000), repeats=1, cases=50), Silent()
    )
    small, large = result.records
    assert (small.variant, large.variant) == ("2000-interactions", "6000-interactions")
    assert small.ratio == 1.0
    assert large.ratio == pytest.approx(3 * small.seconds / large.seconds)
    assert small.peak_memory_bytes > 30_000_000
    assert small.prompts is None
    assert small.tokens is None
    bound = 3 * math.log(6000) / math.log(2000)
    assert f"n log n allows {bound:.2f} times" in result.notes[0]


def test_a_process_that_fails_says_why(tmp_path):
    from benchmarks.prepare import measured

    settings = write_events(tmp_path, 1000)
    settings.items.unlink()
    with pytest.raises(DataError, match=r"items\.parquet"):
        measured(settings, tmp_path, 0)


def test_the_clock_counts_the_model_and_neither_the_feed_nor_the_caller(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(bench_clock, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    def take(seconds):
        now[0] += seconds

    class Slow(ScriptedModel):
        def generate(self, prompts, sampling):
            for one in super().generate(prompts, sampling):
                take(0.02)
                yield one

        def score(self, prompts, answers):
            take(0.05)
            return super().score(prompts, answers)

    def feed():
        for prompt in some_prompts(3):
            take(0.5)
            yield prompt

    clock = Clock()
    model = clocked(Slow(), clock)
    for _ in model.generate(feed(), Sampling()):
        take(0.5)
    assert clock.seconds == pytest.approx(0.06)
    model.score(some_prompts(2), ("Yes", "No"))
    assert clock.seconds == pytest.approx(0.11)


def test_vectors_do_the_same_work_on_fewer_tokens(config, tiny_settings):
    options = VectorsOptions(candidates=6, cases=2, vectors=2, repeats=1)
    results = list(bench_vectors("mine", config, tiny_settings, options, Silent()))
    assert [one.records[0].bench for one in results] == ["score", "train"]
    for result, prompts in zip(results, (6, None), strict=True):
        text, vectors, *taught = result.records
        assert all(one.variant == "mine/2 vectors, with the encoder" for one in taught)
        assert (text.variant, vectors.variant) == ("mine/text", "mine/2 vectors")
        assert text.prompts == vectors.prompts == prompts
        assert vectors.distinct_tokens < text.distinct_tokens
        assert vectors.ratio == pytest.approx(text.seconds / vectors.seconds)


def test_overhead_is_what_is_missing_to_the_stages_time(config):
    result = bench_overhead("mine", config, OverheadOptions(queries=3, repeats=2), Silent())
    by_name = {record.variant: record for record in result.records}
    assert list(by_name) == [
        f"mine/{stage}/{kind}" for stage in ("summarize", "rank") for kind in ("model", "stage")
    ]
    for stage in ("summarize", "rank"):
        model, whole = by_name[f"mine/{stage}/model"], by_name[f"mine/{stage}/stage"]
        assert model.ratio == 1.0
        assert 0 < whole.ratio < 1
        assert whole.ratio == pytest.approx(model.seconds / whole.seconds)
        note = next(note for note in result.notes if note.startswith(stage))
        assert f"{1 - whole.ratio:.1%} of the time is not the model's" in note
    assert by_name["mine/rank/stage"].prompts == 3 * 7
    assert by_name["mine/rank/stage"].dtype == "float32"
    # two runs of the same data answer nothing from a store
    assert by_name["mine/summarize/stage"].prompts >= 6
