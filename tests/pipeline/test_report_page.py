"""The report of a whole run: all it was told and made with, stages in order, and their tokens."""

from __future__ import annotations

import html
import json
import re

import pytest
from pipeline_data import SCRIPTED, write_data

from trsr.config import load_config
from trsr.pipeline import run, run_evaluate
from trsr.pipeline.pages import made_with, stage_times
from trsr.storage.run_directory import StageRecord

SETTINGS = [
    "data.candidates=full",
    'rank.rankers=["popular", "llm_zero_shot"]',
    "rank.retrieve_k=7",
    "rank.depth=20",
]

STAGES = ("prepare", "summarize", "train", "rank")


@pytest.fixture
def finished(tmp_path):
    write_data(tmp_path, users=30, items=60)
    (tmp_path / "mine.toml").write_text(SCRIPTED)
    config = load_config(tmp_path / "mine.toml", [*SETTINGS, f"run.folder={tmp_path / 'run'}"])
    list(run(config))
    return config


def part(text, name):
    return text.partition(f'id="{name}"')[2].partition("</section>")[0]


def test_a_runs_report_tells_what_it_takes_to_make_it_again(finished):
    folder = finished.run.folder
    manifest = folder / "manifest.json"
    values = json.loads(manifest.read_text())
    stages = values["stages"]
    stages["prepare"] = stages.pop("prepare")  # as where it was copied at last
    manifest.write_text(json.dumps(values))
    (folder / "report.json").unlink()
    run_evaluate(finished)
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
