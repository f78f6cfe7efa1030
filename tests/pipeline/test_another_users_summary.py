"""`prompts.summary_of = "another"`: a run that tells each user the summary of another one."""

from __future__ import annotations

import re
import shutil

import polars as pl
import pytest
from pipeline_data import configured, write_data

import trsr
from trsr import run_evaluate, run_prepare, run_rank, run_train
from trsr.config import load_config
from trsr.data import Dataset
from trsr.errors import ConfigError, DataError
from trsr.models.scripted import ScriptedModel, common_words
from trsr.pipeline import STAGES, run, run_stage
from trsr.pipeline.artifacts import (
    SPLITS,
    SUMMARIES,
    SUMMARY_COLUMNS,
    read_summaries,
    summaries_file,
)
from trsr.pipeline.prompt_summaries import prompt_summaries

CONFIG = configured(
    data={"max_history": 8, "targets_per_user": 3},
    prompts={"domain": "products"},
    model={"context_tokens": 4096},
    summarize={"strategy": "recurrent", "block_items": 3},
    rank={"rankers": ["popular", "llm_zero_shot"]},
)
ANOTHER = "prompts.summary_of=another"
OWNER = re.compile(r"Owner (u\d+) of (\S+)\.")


@pytest.fixture
def made(tmp_path):
    """A prepared run whose summaries name their users; made with settings of one's own."""

    def make(*settings, users=14):
        if not (tmp_path / "mine.toml").exists():
            write_data(tmp_path, users=users)
            (tmp_path / "mine.toml").write_text(CONFIG)
        places = [f"run.folder={tmp_path / 'run'}"]
        config = load_config(tmp_path / "mine.toml", [*places, *settings])
        if not (tmp_path / "run" / "items.parquet").exists():
            run_prepare(config)
            write_summaries(config)
        return config

    return make


def write_summaries(config, text=lambda user, query: f"Owner {user} of {query}."):
    """Summaries made elsewhere, of each query's first three interactions."""
    dataset = Dataset.load(config.run.folder)
    for split in SPLITS:
        queries = dataset.cases(split).frame.select("query", "user").rows()
        rows = [(query, user, text(user, query), 3, []) for query, user in queries]
        frame = pl.DataFrame(rows, schema=SUMMARY_COLUMNS, orient="row")
        frame.write_parquet(config.run.folder / summaries_file(split))


@pytest.fixture
def asked(monkeypatch):
    """Ranks a run, and gives the test queries' prompts as the model was asked them, by query."""

    def ask(config):
        prompts = []

        def scores(prompt, answer):
            if answer.strip().casefold().startswith("yes"):
                prompts.append(prompt.messages[-1].content)
            return common_words(prompt, answer)

        name = f"{config.prompts}"  # so that no answer comes from the store
        model = ScriptedModel(scores=scores, identity=name, context_tokens=4096)
        monkeypatch.setattr("trsr.recommender.open_model", lambda settings, adapter: model)
        run_train(config)
        assert run_rank(config).made
        cases = list(Dataset.load(config.run.folder).cases("test"))
        parts = iter(prompts)
        found = {c.query.id: [next(parts) for _ in c.query.candidates] for c in cases}
        assert not list(parts)
        return found

    return ask


def test_the_prompts_differ_in_whose_summary_they_tell_and_in_nothing_else(made, asked):
    own = asked(made())
    another = asked(made(ANOTHER))
    donors = []
    for query, prompts in another.items():
        user = query.split("/")[1]
        for prompt, before in zip(prompts, own[query], strict=True):
            ((told, donor),) = OWNER.findall(prompt)
            assert OWNER.findall(before) == [(user, query)]
            assert told != user
            assert donor.startswith(f"test/{told}/")
            assert OWNER.sub("", prompt) == OWNER.sub("", before)
        donors.append(donor)
    assert len(set(donors)) > len(donors) / 3  # drawn for each, not one for all


def test_training_and_its_validation_are_told_the_same_way(small_run, tmp_path, monkeypatch):
    pytest.importorskip("torch", reason="the extra `local` is not installed")
    from trsr.pipeline import stages

    config = load_config(small_run(tmp_path), [ANOTHER, "train.epochs=1", "rank.rankers=['llm']"])
    run_prepare(config)
    write_summaries(config, lambda user, query: f"Owner {user} of {query.split('/')[0]}.")
    trained, validated = [], []
    train, compute = stages.train, stages.compute

    def training(cases, **rest):
        trained.extend(cases)
        return train(cases, **rest)

    def validating(cases, *rest):
        validated[:] = cases
        return compute(cases, *rest)

    monkeypatch.setattr(stages, "train", training)
    monkeypatch.setattr(stages, "compute", validating)
    assert run_train(config).made
    told = {}
    for cases, split in ((trained, "train"), (validated, "valid")):
        assert cases
        for case in cases:
            user = case.query.history.user
            ((other, part),) = OWNER.findall(case.query.summary.text)
            assert other != user
            assert part == split
            assert case.query.summary.covers == 3
            assert told.setdefault((split, user), other) == other
    assert len(trained) > len({case.query.history.user for case in trained}) > 5


def test_who_is_told_depends_on_the_seed_and_not_on_the_order(made, tmp_path):
    config = made(ANOTHER)
    shutil.copytree(tmp_path / "run", tmp_path / "turned")
    for name in ("cases.test.parquet", "summaries.test.parquet"):
        pl.read_parquet(tmp_path / "run" / name).reverse().write_parquet(tmp_path / "turned" / name)

    def told(folder, config=config):
        summaries = read_summaries(tmp_path / folder)
        return prompt_summaries(config, Dataset.load(tmp_path / folder), "test", summaries)

    assert told("run") == told("turned")
    assert told("run") != told("run", made(ANOTHER, "run.seed=1", "data.seed=0"))


def test_queries_without_a_summary_stay_without(made, asked):
    config = made(ANOTHER)
    path = config.run.folder / "summaries.test.parquet"
    frame = pl.read_parquet(path)
    test = list(frame["query"])
    lacking, empty, full = test[:3], test[3:6], test[6:]
    text = pl.when(pl.col("query").is_in(empty)).then(pl.lit("")).otherwise("text")
    frame = frame.filter(~pl.col("query").is_in(lacking)).with_columns(text=text)
    frame.write_parquet(path)
    told = {query: OWNER.findall(prompts[0]) for query, prompts in asked(config).items()}
    assert full
    assert not any(told[query] for query in [*lacking, *empty])
    assert {donor for query in full for _, donor in told[query]} <= set(full)


def test_it_is_an_error_where_one_user_alone_has_summaries(made):
    config = made(ANOTHER)
    write_summaries(config, lambda user, query: "Owner." if user == "u3" else "")
    run_train(config)
    with pytest.raises(
        DataError, match=r"test cases only those of user u3 have .*data\.test_cases"
    ):
        run_rank(config)


def test_what_tells_summaries_is_made_again_and_the_summaries_are_not(made, tmp_path):
    config = made()
    for name in SUMMARIES:
        (tmp_path / "run" / name).unlink()
    later = ["summarize", "train", "rank", "evaluate"]
    assert [one.stage for one in run(config) if one.made] == later
    another = made(ANOTHER)
    assert [one.stage for one in run(another) if one.made] == ["rank", "evaluate"]
    assert not [one for one in run(another) if one.made]
    trained = ["train.epochs=2", "rank.rankers=['llm']"]
    settings = [
        {stage.name: stage.settings(made(*trained, *more)) for stage in STAGES}
        for more in ([], [ANOTHER])
    ]
    changed = {name for name in settings[0] if settings[0][name] != settings[1][name]}
    assert changed == {"train", "rank", "evaluate"}


def test_the_pages_show_what_was_told_and_count_the_own(made, tmp_path):
    from trsr.cli.show import lines

    config = made(ANOTHER)
    run_train(config)
    run_rank(config)
    run_evaluate(config)
    folder = config.run.folder
    summaries = read_summaries(folder)
    told = prompt_summaries(config, Dataset.load(folder), "test", summaries)
    query = pl.read_parquet(folder / "cases.test.parquet")["query"][0]
    page = (folder / "report.html").read_text("utf-8")
    assert "read: another user’s" in page
    assert told[query].text in page
    assert "recurrent summaries of other users" in (folder / "report.md").read_text("utf-8")
    shown = "\n".join(lines(folder, query.split("/")[1]))
    assert f"another user's summary, not this user's, of 3 interactions: {told[query].text}" in (
        shown
    )
    assert query not in "".join(part for _, part in OWNER.findall(shown))
    counts = (folder / "report.json").read_text("utf-8").partition('"summaries"')[2]
    run_rank(made())
    run_evaluate(made())
    assert (folder / "report.json").read_text("utf-8").partition('"summaries"')[2] == counts


def test_such_a_run_recommends_with_cheap_rankers_alone(made):
    config = made(ANOTHER, "rank.rankers=['popular']", "train.epochs=0")
    for stage in ("summarize", "train", "rank"):
        run_stage(config, stage)
    folder = config.run.folder
    for ranker in ("popular", "llm_zero_shot"):
        recommender = trsr.Recommender.load(folder, ranker)
        history = recommender.dataset.history("u3")
        query = trsr.Query("q", history, recommender.propose(history, 5))
        if ranker == "popular":
            assert len(list(recommender.rank([query]))) == 1
        else:
            with pytest.raises(ConfigError, match="tells other users' summaries"):
                list(recommender.rank([query]))
