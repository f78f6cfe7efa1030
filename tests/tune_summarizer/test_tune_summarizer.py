"""Tuning a summarizer, with a tiny model and a ranker that one way of writing helps."""

from __future__ import annotations

import functools
import json
import math
import random
import shutil
from types import SimpleNamespace

import polars as pl
import pytest
from stopping import StopHereError, Stopping

from trsr.config import load_config
from trsr.data import Dataset
from trsr.errors import ConfigError, DataError, StaleRunError, StoreError
from trsr.experiments.tune_summarizer import (
    log_likelihood,
    sample_cases,
    sample_summaries,
    tune_summarizer,
)
from trsr.models import ModelSettings, open_model
from trsr.models.base import Sampling
from trsr.models.scripted import ScriptedModel
from trsr.pipeline import run_prepare
from trsr.progress import Silent
from trsr.prompts import PromptSettings, PromptWriter
from trsr.recommender import ranking_writer
from trsr.summarize import SummarizeSettings
from trsr.types import Case, Entry, Interaction, Item, Query, RankedList, UserHistory

LIKED, OTHER = "quiet films.", "steel bolts."


def likes_gold(prompt, answer):
    """Yes to gold where the summary says what is liked, else no opinion."""
    text = prompt.messages[-1].content
    sure = 3.0 * (LIKED in text and "gold" in text.splitlines()[-1])
    return sure / 2 if answer == "Yes" else -sure / 2


def teach_both_ways(config, folder):
    """Trains the tiny model of a run to write either way, and writes it into a folder."""
    from trsr.models.hf.load import write_merged
    from trsr.recommender import summary_writer
    from trsr.training.encode import TextExample
    from trsr.training.settings import TrainSettings
    from trsr.training.start import train_on_texts

    dataset = Dataset.load(config.run.folder)
    writer = summary_writer(config, open_model(config.model))
    prompts = [
        writer.write(case.query.history.items)
        for split in ("train", "valid")
        for case in dataset.cases(split)
    ]
    train_on_texts(
        lambda opened: [
            TextExample("q", prompt, text) for prompt in prompts[::2] for text in (LIKED, OTHER)
        ],
        model=config.model,
        settings=TrainSettings(
            epochs=8,
            learning_rate=2e-2,
            warmup_steps=5,
            cases_per_step=4,
            alpha=32,
            dropout=0.0,
            targets=("q_proj", "v_proj", "up_proj", "down_proj"),
        ),
        seed=3,
        out=folder / "adapter",
        state=folder / "state",
        progress=Silent(),
    )
    write_merged(config.model, folder / "adapter", folder / "taught")
    return folder / "taught"


CONFIG = """
[data]
interactions = "clicks.csv"
items = "products.jsonl"
min_history = 4
max_history = 5
train_negatives = 3
negatives = 6
targets_per_user = 2
valid_cases = 12

[prompts]
domain = "products"
words = 6
summary_item_words = 6
recent = 2

[model]
name = "./tiny"
dtype = "float32"
context_tokens = 1024
batch_size = 4

[summarize]
block_items = 5

[summarize.sampling]
max_tokens = 16

[tune_summarizer]
users = 12
samples = 6
epochs = 6
learning_rate = 1e-2

[train]
alpha = 32
"""


def write_data(folder, users=14, seed=5):
    """Users who take gold things only, among as many grey ones."""
    draw = random.Random(seed)
    with (folder / "products.jsonl").open("w") as file:
        for item in range(48):
            title = f"{'gold' if item % 2 else 'grey'} {draw.choice(['bolt', 'lamp', 'hinge'])}"
            file.write(json.dumps({"sku": f"p{item}", "title": f"{title} no. {item}"}) + "\n")
    with (folder / "clicks.csv").open("w") as file:
        file.write("customer,sku,when\n")
        for user in range(users):
            gold = draw.sample(range(1, 48, 2), draw.randint(8, 12))
            for when, item in enumerate(gold):
                file.write(f"u{user},p{item},{1000 * user + when}\n")


@pytest.fixture(scope="module")
def taught_model(tmp_path_factory, one_thread):
    """The folder of a tiny model that writes in two ways, which no test changes."""
    from tiny import tiny_model_folder

    folder = tmp_path_factory.mktemp("taught")
    write_data(folder)
    tiny_model_folder(folder / "tiny")
    (folder / "small.toml").write_text(CONFIG)
    config = load_config(folder / "small.toml", [f"run.folder={folder / 'run'}"])
    run_prepare(config)
    return teach_both_ways(config, folder)


@pytest.fixture(scope="module")
def prepare(taught_model):
    """Gives what prepares a run in a folder, with settings of one's own: its configuration."""

    def make(folder, *settings):
        if not (folder / "clicks.csv").exists():  # written again, it would be prepared again
            write_data(folder)
        (folder / "small.toml").write_text(CONFIG.replace("./tiny", str(taught_model)))
        config = load_config(folder / "small.toml", [f"run.folder={folder / 'run'}", *settings])
        run_prepare(config)
        return config

    return make


@pytest.fixture
def prepared(tmp_path, prepare):
    """The same in `tmp_path`."""
    return functools.partial(prepare, tmp_path)


@pytest.fixture(scope="module", autouse=True)
def gold_judge(one_thread):
    """The judge that likes gold, in every test."""

    def rank(config, adapter):
        model = ScriptedModel(scores=likes_gold, context_tokens=10**6)
        return model, ranking_writer(config, model)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trsr.experiments.tune_summarizer.open_ranking_model", rank)
        patch.setattr("trsr.experiments.tune_summarizer.TEMPERATURE", 0.6)
        yield


@pytest.fixture(scope="module")
def whole(prepare, tmp_path_factory):
    """A tuning, its folder, its steps, and query → what was sampled for it, each time."""
    from trsr.experiments import tune_summarizer as tuning

    folder, progress, sampled = tmp_path_factory.mktemp("whole"), Stopping(10**9), {}
    sample = tuning.sample_summaries

    def watched(*args):
        found = sample(*args)
        for query, one in found.items():
            sampled.setdefault(query, []).append(one)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuning, "sample_summaries", watched)
        tuned = tune_summarizer(prepare(folder), folder / "tuned", progress)
    return SimpleNamespace(
        tuned=tuned, folder=folder / "tuned", steps=sum(progress.told), sampled=sampled
    )


pytest.importorskip("torch", reason="the extra `local` is not installed")


WEIGHTS = ("model.safetensors", "adapter/adapter_model.safetensors")


def outcome(folder):
    """All that a tuning gives."""
    found = json.loads((folder / "summarizer.json").read_text())
    return found, [(folder / name).read_bytes() for name in WEIGHTS]


def test_it_learns_what_helps_the_ranker_and_opens_as_a_model(whole, taught_model):
    tuned, sampled = whole.tuned, whole.sampled
    assert tuned.made
    assert tuned.found["better"]
    measured = tuned.found["measured"]
    assert measured["low"] > 0
    assert measured["p"] < 0.05
    assert measured["tuned"] - measured["llm_zero_shot"] == pytest.approx(measured["difference"])
    # A user is learned from exactly where a sample is liked and the greedy summary is not.
    wanted = [
        query
        for query, (greedy, *samples) in sampled.items()
        if query.startswith("train")
        and LIKED not in greedy.summary.text
        and any(LIKED in one.summary.text for one in samples)
    ]
    assert tuned.found["selected"] == len(wanted) > 0
    # The merged folder is the base with the adapter, and writes as the ranker likes it.
    prompts = [sampled[query][0].texts[0].prompt for query in wanted]

    def texts(name, adapter=None):
        settings = ModelSettings(name=str(name), dtype="float32", device="cpu")
        model = open_model(settings, adapter)
        return [text for _, text in sorted(model.generate(prompts, Sampling(max_tokens=16)))]

    merged = texts(whole.folder)
    assert merged == texts(taught_model, whole.folder / "adapter")
    assert merged.count(LIKED) > texts(taught_model).count(LIKED)
    shown = tuned.found["examples"]
    assert {one["query"].partition("/")[0] for one in shown} == {"valid"}


def test_one_stopped_anywhere_ends_like_an_unbroken_one(whole, prepared, tmp_path, monkeypatch):
    config = prepared()
    # Whatever the test cases are, a readable file of somebody's own, it comes to the same.
    pl.DataFrame({"own": [1]}).write_parquet(config.run.folder / "cases.test.parquet")
    for part in (0.3, 0.5, 0.4):
        stop = Stopping(int(part * whole.steps))
        with pytest.raises(StopHereError):
            tune_summarizer(config, tmp_path / "broken/tuned", stop)
        assert not (tmp_path / "broken/tuned/summarizer.json").exists()
    tune_summarizer(config, tmp_path / "broken/tuned")
    assert outcome(whole.folder) == outcome(tmp_path / "broken/tuned")
    assert not list((tmp_path / "broken/tuned").glob(".work/*"))

    def refuse(self, feed, sampling):
        assert not [prompt for prompt in feed if prompt], "a prompt is asked again"
        return iter(())

    monkeypatch.setattr("trsr.models.hf.generate.Generator.answer", refuse)
    done = tune_summarizer(config, tmp_path / "broken/tuned")
    assert not done.made
    assert done.found["better"]
    # The model is known by its name and its weights, wherever it lies.
    tune_summarizer(config, tmp_path / "elsewhere/tuned")
    assert outcome(whole.folder) == outcome(tmp_path / "elsewhere/tuned")
    with pytest.raises(StaleRunError, match=r"tune_summarizer\.samples: 6 → 5"):
        tune_summarizer(prepared("tune_summarizer.samples=5"), tmp_path / "elsewhere/tuned")


def test_where_nothing_is_better_no_model_is_written(whole, prepared, tmp_path, monkeypatch):
    monkeypatch.setattr("trsr.experiments.tune_summarizer.MARGIN", 100)
    stored = whole.folder.with_name("responses.sqlite")
    tuned = tune_summarizer(prepared(f"run.cache={stored}"), tmp_path / "tuned")
    assert not tuned.found["better"]
    assert "nothing was trained" in tuned.verdict
    names = {path.name for path in (tmp_path / "tuned").iterdir()}
    assert names == {".lock", ".work", "manifest.json", "summarizer.json"}


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("summarize.strategy=none", "summarize.strategy: none asks no model"),
        ("summarize.model.backend=scripted", "scripted has no weights here"),
    ],
)
def test_what_cannot_be_tuned_is_refused(prepared, tmp_path, setting, said):
    config = prepared(setting)
    with pytest.raises(ConfigError, match=said):
        tune_summarizer(config, tmp_path / "tuned")
    assert not (tmp_path / "tuned").exists()


def test_runs_and_folders_that_will_not_do_are_refused(prepared, tmp_path):
    config = prepared()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("…")
    with pytest.raises(StoreError, match="choose another --out"):
        tune_summarizer(config, tmp_path / "mine")
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


def test_the_reward_is_the_log_softmax_of_the_scores_over_the_candidates():
    ranked = RankedList("q", tuple(Entry(i, s) for i, s in (("a", 2.0), ("b", 1.0), ("c", -1.0))))
    total = math.log(math.exp(2) + math.exp(1) + math.exp(-1))
    assert log_likelihood(ranked, frozenset("b")) == pytest.approx(1 - total)
    assert log_likelihood(ranked, frozenset("ac")) == pytest.approx((2 - 1) / 2 - total)
    far = RankedList("q", (Entry("a", 5000.0), Entry("b", -5000.0)))
    assert log_likelihood(far, frozenset("b")) == -10000


def case_of(user, n):
    items = (Item(f"{user}{place}", (("title", f"thing {place} of {user}"),)) for place in range(n))
    history = UserHistory(user, tuple(Interaction(item, 0.0) for item in items))
    return Case(Query(f"train/{user}/{n}", history, history.items[:1]), frozenset({f"{user}0"}))


def test_what_is_learned_is_what_was_written_on_the_way_to_the_summary():
    answers = iter(["likes bolts. And nuts", "likes bolts and lamps", "both."])
    model = ScriptedModel(lambda prompt: next(answers), in_flight=1, context_tokens=4000)
    writer = PromptWriter(PromptSettings(), model.count_tokens, 4000)
    settings = SummarizeSettings(strategy="recurrent", block_items=2)
    asked = ([case_of("u", 5)], model, writer, settings, Sampling(), Silent())
    (found,) = sample_summaries(*asked).values()
    texts = [(one.text, one.complete) for one in found.texts]
    assert texts == [("likes bolts.", True), ("likes bolts and lamps", False), ("both.", True)]
    # A text's prompt is the one that was asked: the second holds the first summary.
    assert "likes bolts." in found.texts[1].prompt.messages[-1].content
    assert found.summary.text == "both."


def test_a_begun_answer_is_not_learned_again():
    model = ScriptedModel(lambda prompt: " bolts and nuts. More", context_tokens=4000)
    prompts = PromptSettings(domain="products", style="worked")
    writer = PromptWriter(prompts, model.count_tokens, 4000)
    asked = ([case_of("u", 2)], model, writer, SummarizeSettings(), Sampling(), Silent())
    (found,) = sample_summaries(*asked).values()
    (one,) = found.texts
    assert one.text == " bolts and nuts."
    assert found.summary.text == f"{one.prompt.begun}{one.text}"


def test_one_case_a_user_is_drawn_and_more_of_them_change_none(prepared):
    cases = Dataset.load(prepared().run.folder).cases("train")

    def drawn(most, seed):
        return sample_cases(cases, most, seed)

    assert len({case.query.history.user for case in drawn(6, 1)}) == 6
    assert drawn(6, 1) != drawn(6, 2)
    assert [case for case in drawn(9, 1) if case in drawn(6, 1)] == drawn(6, 1)
