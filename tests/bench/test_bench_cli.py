"""`python -m benchmarks`: JSON a program reads, and mistakes told in a line."""

from __future__ import annotations

import json

import pytest
from tiny import tiny_model_folder

from benchmarks.__main__ import main
from benchmarks.records import KEYS


@pytest.fixture
def bench(tmp_path, monkeypatch, capsys):
    """Gives a command in an empty folder; what it prints. In this process: torch loads slowly."""
    monkeypatch.chdir(tmp_path)

    def command(*words, code=0):
        assert main(list(map(str, words))) == code
        return capsys.readouterr()

    return command


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model_folder(tmp_path_factory.mktemp("tiny") / "llama")


def test_json_is_one_object_a_variant_with_all_keys(model, bench):
    sizes = ["--prefix", 40, "--rest", 8, "--candidates", 4, "--repeats", 1, "--seed", 5]
    own = ["--model", model, "--dtype", "float32", "--variant", "tree"]
    done = bench("score", *own, *sizes, "--json")
    records = [json.loads(line) for line in done.out.splitlines()]
    assert [list(record) for record in records] == [list(KEYS)] * len(records)
    assert [record["variant"] for record in records][:1] == ["40+4x8/pairwise"]
    assert "40+4x8/tree" in [record["variant"] for record in records]
    assert {record["distinct_tokens"] for record in records} == {40 + 4 * 8}
    assert "rank correlation" in done.err


def test_without_json_a_table_and_what_no_key_holds(model, bench):
    sizes = ["--prefix", 40, "--rest", 8, "--cases", 1, "--negatives", 2, "--repeats", 1]
    done = bench("train", "--model", model, "--dtype", "float32", *sizes)
    assert "40+3x8/pairwise" in done.out
    assert "relative difference of a gradient" in done.out


def test_real_queries_come_from_a_configuration_or_two_files(model, bench, tmp_path):
    from pipeline_data import write_data

    write_data(tmp_path, items=60)
    files = ["--interactions", "clicks.csv", "--items", "products.jsonl"]
    sizes = ["--queries", 2, "--candidates", 5, "--candidates", 8, "--repeats", 1]
    own = ["--model", model, "--dtype", "float32", "--variant", "tree"]
    done = bench("score", *files, *own, *sizes, "--json")
    records = [json.loads(line) for line in done.out.splitlines()]
    assert {record["variant"].split("/")[0] for record in records} == {"clicks-5", "clicks-8"}
    assert {record["prompts"] for record in records} == {10, 16}
    assert "both --interactions and --items" in bench("score", *files[:2], code=2).err


def test_mistakes_are_told_in_a_line(model, bench):
    assert "--dtype" in bench("train", "--dtype", "float12", code=2).err
    assert "did you mean tree" in bench("score", "--model", model, "--variant", "tre", code=2).err
    said = bench("summarize", "industral", code=2).err
    assert "industral" in said
    assert "did you mean industrial" in said
    assert "name a configuration" in bench("overhead", code=2).err
    with pytest.raises(SystemExit):
        bench("train", "--cases", 0)


def test_all_writes_the_page(model, bench, tmp_path):
    words = ["--model", model, "--dtype", "float32", "--repeats", 1, "--interactions", 20_000]
    done = bench("all", *words, "--only", "prepare", "-o", "page.md", "--json")
    assert len(done.out.splitlines()) == 2
    text = (tmp_path / "page.md").read_text()
    assert "20000-interactions" in text
    assert str(tmp_path) not in text


def test_serving_is_timed_over_a_finished_run(bench, tmp_path):
    from pipeline_data import SCRIPTED, write_data

    from trsr.config import load_config
    from trsr.pipeline import run

    write_data(tmp_path)
    text = SCRIPTED.replace('"popular"]', '"llm_zero_shot"]')
    text = text.replace('strategy = "none"', 'strategy = "recurrent"\nblock_items = 2')
    (tmp_path / "mine.toml").write_text(text)
    list(run(load_config(tmp_path / "mine.toml", [f"run.folder={tmp_path / 'run'}"])))
    sizes = [
        "--users",
        3,
        "--history",
        9,
        "--anew",
        12,
        "--candidates",
        4,
        "--clients",
        2,
        "--repeats",
        1,
    ]
    some = ["--only", "overhead", "--only", "clients", "--only", "summary"]
    done = bench("serve", "run", "--ranker", "llm_zero_shot", *sizes, *some)
    assert "beyond the model's own time" in done.out
    assert "scores differ by 0" in done.out
    assert "the summary is the same" in done.out
    assert "an event costs 1/" in done.out
    assert "there is no measure" in bench("serve", "run", "--only", "x", code=2).err
