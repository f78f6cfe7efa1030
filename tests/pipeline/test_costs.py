"""What each ranker takes is recorded by `rank`, and stands in the report where it is known."""

from __future__ import annotations

import contextlib
import html
import json
import re
import sqlite3
from collections.abc import Iterator

import polars as pl
import pytest
from chat_endpoint import Endpoint
from pipeline_data import SCRIPTED, configured, write_data

from trsr import load_config, run_prepare, run_summarize
from trsr.pipeline import run, run_evaluate, run_rank
from trsr.pipeline.pages import made_with, stage_times
from trsr.report.costs import UNRECORDED
from trsr.storage.run_directory import RunDirectory, StageRecord

CONFIG = configured(
    summarize={"strategy": "none"},
    rank={"rankers": ["random", "popular", "llm_zero_shot"]},
)


@pytest.fixture
def finished(finished_copy, tmp_path):
    return finished_copy(tmp_path, CONFIG, users=30, items=60)


def report_of(config):
    return json.loads((config.run.folder / "report.json").read_text("utf-8"))


def page_of(config):
    return (config.run.folder / "report.html").read_text("utf-8")


def test_seconds_and_tokens_of_each_ranker_are_recorded_and_shown(finished):
    info = RunDirectory(finished.run.folder).records()["rank"].info
    costs = info["costs"]
    assert list(costs) == ["random", "popular", "llm_zero_shot"]
    assert costs == report_of(finished)["costs"]
    for one in costs.values():
        assert one["queries"] == info["queries"]
        assert 0 < one["seconds"] < info["seconds"] + 0.01
    assert costs["popular"]["prompts"] == costs["popular"]["tokens"] == 0
    model = costs["llm_zero_shot"]
    assert model["prompts"] == info["queries"] * 7
    # A scripted model's tokens are words: no prompt has fewer than its instruction.
    assert model["tokens"] > 10 * model["prompts"]
    assert sum(one["seconds"] + one["preparing"] for one in costs.values()) < info["seconds"] + 0.01
    assert UNRECORDED not in page_of(finished)


def rank_again(config):
    """Ranks from answers that the store has, and reports."""
    folder = config.run.folder
    (folder / "rankings.parquet").unlink()
    assert run_rank(config).made
    assert run_evaluate(config).why == "up to date"  # the lists are the same
    (folder / "report.json").unlink()
    run_evaluate(config)
    return report_of(config)["costs"]


def test_answers_from_the_store_count_with_what_they_had_taken(finished):
    first = report_of(finished)["costs"]["llm_zero_shot"]
    assert (first["from_store"], first["cached_tokens"]) == (0, 0)
    model = rank_again(finished)["llm_zero_shot"]
    assert model["from_store"] == model["prompts"] == first["prompts"]
    assert (model["tokens"], model["cached_tokens"]) == (0, first["tokens"])
    assert 0 < model["cached_seconds"] < first["seconds"]
    page = page_of(finished)
    assert "Of llm_zero_shot answers were in the store: they count with what they took" in page


def test_equal_prompts_of_one_run_are_counted_whole_and_not_from_the_store(finished):
    """Items that read alike, as those without a text do: each of their prompts has its tokens."""
    alike = 'prompts.fields=["brand"]'  # of two brands
    folder, cache = finished.run.folder.parent / "alike", finished.run.folder.parent / "new.sqlite"
    own = [f"run.folder={folder}", f"run.cache={cache}", alike]
    config = load_config(finished.run.folder / "config.toml", own)
    list(run(config))
    costs = report_of(config)["costs"]["llm_zero_shot"]
    models = RunDirectory(folder).records()["rank"].info["models"].values()
    asked = sum(one["asked"] for one in models)
    assert 0 < asked < costs["prompts"]
    assert costs["from_store"] == costs["cached_tokens"] == 0
    assert costs["tokens"] / costs["prompts"] == pytest.approx(
        sum(one["tokens"] for one in models) / asked, rel=0.1
    )
    assert "answers were in the store" not in page_of(config)


def test_a_ranking_that_was_stopped_and_went_on_costs_the_same(finished):
    first = report_of(finished)["costs"]["llm_zero_shot"]
    with contextlib.closing(sqlite3.connect(finished.run.cache)) as connection:
        lost = connection.execute("DELETE FROM outputs WHERE key < '8'").rowcount
        connection.commit()
    assert 0 < lost < first["prompts"]
    model = rank_again(finished)["llm_zero_shot"]
    assert model["prompts"] - model["from_store"] == lost
    assert model["tokens"] + model["cached_tokens"] == first["tokens"]
    assert model["cached_unknown"] == 0


def test_answers_of_a_store_that_does_not_tell_are_no_measure(finished):
    with contextlib.closing(sqlite3.connect(finished.run.cache)) as connection:
        connection.execute("UPDATE outputs SET seconds = NULL, tokens = NULL")
        connection.commit()
    model = rank_again(finished)["llm_zero_shot"]
    assert model["from_store"] == model["prompts"] == model["cached_unknown"]
    assert model["tokens"] == 0
    page = page_of(finished)
    assert "Of llm_zero_shot many answers were in the store" in page


def test_a_run_without_the_record_holds_and_says_so(finished):
    directory = RunDirectory(finished.run.folder)
    records = directory.records()
    old = records["rank"]
    info = {key: value for key, value in old.info.items() if key not in ("costs", "made")}
    records["rank"] = StageRecord(old.settings, old.parents, old.files, info)
    directory._write_manifest(records, [])
    assert not [one for one in run(finished) if one.made]
    (finished.run.folder / "report.json").unlink()
    run_evaluate(finished)
    assert report_of(finished)["costs"] == {}
    assert UNRECORDED in page_of(finished).replace("&#39;", "'")


def test_lists_made_elsewhere_have_no_cost_of_this_run(finished):
    path = finished.run.folder / "rankings.parquet"
    pl.read_parquet(path).filter(pl.col("ranker") != "random").write_parquet(path)
    run_evaluate(finished)
    assert report_of(finished)["costs"] == {}


def test_proposals_are_no_cost_of_the_first_query(finished):
    config = load_config(
        finished.run.folder / "config.toml",
        ["data.candidates=full", f"run.folder={finished.run.folder.parent / 'full'}"],
    )
    list(run(config))
    costs = RunDirectory(config.run.folder).records()["rank"].info["costs"]
    assert costs["llm_zero_shot"]["queries"] == costs["popular"]["queries"]
    assert (
        costs["llm_zero_shot"]["prompts"]
        <= costs["llm_zero_shot"]["queries"] * config.rank.retrieve_k
    )


def test_each_stage_tells_when_on_what_and_in_how_much_memory(finished):
    for record in RunDirectory(finished.run.folder).records().values():
        made = record.info["made"]
        assert made["on"].endswith(("core", "cores"))
        assert made["at"].startswith("20")
        assert made["peak_memory_bytes"] is None or made["peak_memory_bytes"] > 2**20


def test_a_blend_costs_what_its_members_computed_for_it_before(finished):
    config = load_config(
        finished.run.folder / "config.toml",
        [
            f"run.folder={finished.run.folder.parent / 'blended'}",
            f"run.cache={finished.run.folder.parent / 'own.sqlite'}",
            'rank.rankers=["popular", "llm_zero_shot", "blend"]',
            'rank.blend.members=["popular", "llm_zero_shot"]',
        ],
    )
    list(run(config))
    costs = report_of(config)["costs"]
    asked = RunDirectory(config.run.folder).records()["rank"].info["costs"]["blend"]
    assert asked["from_store"] == asked["prompts"] == costs["llm_zero_shot"]["prompts"]
    assert costs["blend"]["tokens"] == 0
    assert costs["blend"]["cached_tokens"] == costs["llm_zero_shot"]["tokens"] > 0
    assert 0 < costs["blend"]["cached_seconds"] < costs["llm_zero_shot"]["seconds"]
    assert "Of blend answers were in the store: they count" in page_of(config)
    (config.run.folder / "report.json").unlink()
    run_evaluate(config)
    assert report_of(config)["costs"] == costs


def test_summaries_from_the_store_tell_what_they_had_taken(finished):
    def summarized(folder):
        config = load_config(
            finished.run.folder / "config.toml",
            [
                f"run.folder={finished.run.folder.parent / folder}",
                "summarize.strategy=recurrent",
                "summarize.model.backend=scripted",
                "summarize.model.name=scripted",
            ],
        )
        list(run(config))
        return RunDirectory(config.run.folder).records()["summarize"].info

    first, again = summarized("first"), summarized("again")
    assert first["cached_tokens"] == first["cached_unknown"] == 0
    assert first["asked"] > 0
    assert again["asked"] == again["cached_unknown"] == 0
    assert again["cached_tokens"] == first["tokens"]
    assert 0 < again["cached_seconds"] < first["seconds"] + 0.01


# --- The report of a whole run: all it was told and made with, stages in order, and their token


SETTINGS = [
    "data.candidates=full",
    'rank.rankers=["popular", "llm_zero_shot"]',
    "rank.retrieve_k=7",
    "rank.depth=20",
]

STAGES = ("prepare", "summarize", "train", "rank")


@pytest.fixture
def finished_report_page(tmp_path):
    write_data(tmp_path, users=30, items=60)
    (tmp_path / "mine.toml").write_text(SCRIPTED)
    config = load_config(tmp_path / "mine.toml", [*SETTINGS, f"run.folder={tmp_path / 'run'}"])
    list(run(config))
    return config


def part(text, name):
    return text.partition(f'id="{name}"')[2].partition("</section>")[0]


def test_a_runs_report_tells_what_it_takes_to_make_it_again(finished_report_page):
    folder = finished_report_page.run.folder
    manifest = folder / "manifest.json"
    values = json.loads(manifest.read_text())
    stages = values["stages"]
    stages["prepare"] = stages.pop("prepare")  # as where it was copied at last
    manifest.write_text(json.dumps(values))
    (folder / "report.json").unlink()
    run_evaluate(finished_report_page)
    page = html.unescape((folder / "report.html").read_text("utf-8"))
    text = (folder / "report.md").read_text("utf-8")

    settings = part(page, "settings").replace("<wbr>", "")
    changed, _, rest = settings.partition("</table>")
    assert "model.name" in changed
    assert "run.seed" in rest
    assert "run.seed" not in changed
    assert 'scope="row">torch' in rest or 'scope="row">polars' in rest
    assert stages["rank"]["info"]["made"]["on"] in rest

    times = part(page, "cost")
    assert tuple(re.findall(r'<th scope="row">(\w+)', times)) == STAGES
    tokens = sum(one["tokens"] for one in stages["rank"]["info"]["costs"].values())
    assert tokens > 0
    assert f"{tokens:,}" in times

    # The model orders 7 proposals, and no list holds the catalog.
    report = json.loads((folder / "report.json").read_text())
    assert report["rankers"]["llm_zero_shot"]["lower_bounds"] == ["auc"]
    assert report["chance"]["auc"] is None
    assert "≥ " in text
    assert not re.search(r"recall@7 is \d", text)


def test_flags_and_what_an_endpoint_counted_are_told():
    info = {
        "seconds": 2.0,
        "seed": 1,
        "asked": 4,
        "stopped_early": False,
        "why": "words",
        "usage": {"prompt_tokens": 1200, "answer_tokens": 90},
        "taken_from": "cheap",
    }
    (found,) = stage_times({"summarize": StageRecord({}, {}, {}, info)}, STAGES)
    assert found.seconds == 2.0
    assert found.counts == {
        "asked": 4,
        "stopped_early": False,
        "prompt_tokens": 1200,
        "answer_tokens": 90,
        "copied_from": "cheap",
    }
    assert stage_times({"rank": StageRecord({}, {}, {})}, STAGES)[0].seconds is None


def test_stages_made_elsewhere_are_told_apart():
    def record(machine, torch):
        info = {"made": {"on": machine, "gpu": ""}, "versions": {"torch": torch, "numpy": "1"}}
        return StageRecord({}, {}, {}, info)

    records = {"rank": record("A", "2"), "train": record("B", "2"), "prepare": record("A", "1")}
    assert made_with(records, STAGES) == [
        ("machine", "A (prepare, rank); B (train)"),
        ("torch", "1 (prepare); 2 (train, rank)"),
        ("numpy", "1"),
    ]
    assert made_with({"rank": StageRecord({}, {}, {})}, STAGES) == []
    ranked = StageRecord({}, {}, {}, {"models": {"small float32": {}, "small bfloat16 lora": {}}})
    assert made_with({"rank": ranked}, STAGES) == [("models", "small float32, small bfloat16 lora")]


# --- A run whose summaries come from an endpoint: what it cost is written down


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    made = Endpoint(lambda call: call.answer("steel and copper"))
    yield made
    made.close()


def test_the_manifest_says_what_an_endpoint_was_asked(small_run, tmp_path, endpoint) -> None:
    pytest.importorskip("openai")
    config = load_config(
        small_run(tmp_path),
        [
            f"run.folder={tmp_path / 'run'}",
            "summarize.model.backend=openai",
            "summarize.model.name=any",
            f"summarize.model.base_url={endpoint.url}",
            "summarize.model.price_in=2.0",
        ],
    )
    run_prepare(config)
    run_summarize(config)
    info = RunDirectory(tmp_path / "run").records()["summarize"].info
    assert info["usage"]["requests"] == info["asked"] == len(endpoint.bodies) > 0
    assert info["usage"]["prompt_tokens"] > 0
    assert info["usage"]["cost"] == pytest.approx(2e-6 * info["usage"]["prompt_tokens"])
