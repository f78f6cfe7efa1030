from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks import memory
from benchmarks.__main__ import main
from benchmarks.page import MARK, check_page, notes_of, tables_of, write_page
from benchmarks.records import HEADER, KEYS, Record, Result
from trsr.errors import ConfigError

PAIRWISE = Record(
    "score", "8+2x3/pairwise", "cpu", "float32", 2, 22, 14, 22 / 14, 4.0, 5.5, 1.0, 0.05, 0.5, 2**30
)
PREPARED = Record(
    "prepare", "100-interactions", "cpu", "", *(None,) * 4, 120.0, None, 1.0, 0, None, None
)


def table_lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("|")]


def test_the_page_keeps_its_notes_and_other_benches_tables(tmp_path):
    path = tmp_path / "docs" / "performance.md"
    write_page(
        path, [Result("score, 8+2x3", (PAIRWISE,), ("tree: equal",))], "python -m benchmarks all"
    )
    first = path.read_text("utf-8")
    assert first.count(MARK) == 2
    lines = table_lines(first)
    assert len(lines) == 3
    assert all(line.count("|") == len(HEADER) + 1 for line in lines)
    assert "\n\n- tree: equal\n" in first
    mine = "\n\n## Tried\n\nA dense mask: `3.2×` <!-- only -->\n\n"
    path.write_text(first.replace(notes_of(first), mine), "utf-8")
    write_page(path, [Result("prepare", (PREPARED,))], "python -m benchmarks all --only prepare")
    second = path.read_text("utf-8")
    assert notes_of(second) == mine
    assert tables_of(second)[0] == tables_of(first)[0]
    assert [one.bench for one in tables_of(second)] == ["score, 8+2x3", "prepare"]
    assert "python -m benchmarks all --only prepare" in tables_of(second)[1].text
    faster = Result("score, 8+2x3: again", (dataclasses.replace(PAIRWISE, seconds=3.0),))
    write_page(
        path, [faster, Result("prepare", (), ("not run: no data",))], "python -m benchmarks all"
    )
    third = path.read_text("utf-8")
    assert [one.title for one in tables_of(third)] == ["score, 8+2x3: again", "prepare"]
    assert tables_of(third)[1] == tables_of(second)[1]  # what could not run takes nothing away


def test_a_page_of_another_machine_is_not_mixed_with_this_one(tmp_path):
    path = tmp_path / "performance.md"
    check_page(path)
    write_page(path, [Result("score", (PAIRWISE,))], "python -m benchmarks all")
    check_page(path)
    path.write_text(path.read_text("utf-8").replace("- Versions: ", "- Versions: Python 2.7, "))
    with pytest.raises(ConfigError, match="another kind of machine"):
        check_page(path)
    write_page(path, [Result("prepare", (PREPARED,))], "python -m benchmarks all")
    assert [one.bench for one in tables_of(path.read_text("utf-8"))] == ["prepare"]


# --- `python -m benchmarks`: JSON a program reads, and mistakes told in a line


@pytest.fixture
def bench(tmp_path, monkeypatch, capsys):
    """Gives a command in an empty folder; what it prints. In this process: torch loads slowly."""
    monkeypatch.chdir(tmp_path)

    def command(*words, code=0):
        assert main(list(map(str, words))) == code
        return capsys.readouterr()

    return command


def test_json_is_one_object_a_variant_with_all_keys(tiny_model, bench):
    sizes = ["--prefix", 40, "--rest", 8, "--candidates", 4, "--repeats", 1, "--seed", 5]
    own = ["--model", tiny_model, "--dtype", "float32", "--variant", "tree"]
    done = bench("score", *own, *sizes, "--json")
    records = [json.loads(line) for line in done.out.splitlines()]
    assert [list(record) for record in records] == [list(KEYS)] * len(records)
    assert [record["variant"] for record in records][:1] == ["40+4x8/pairwise"]
    assert "40+4x8/tree" in [record["variant"] for record in records]
    assert {record["distinct_tokens"] for record in records} == {40 + 4 * 8}
    assert "rank correlation" in done.err


def test_without_json_a_table_and_what_no_key_holds(tiny_model, bench):
    sizes = ["--prefix", 40, "--rest", 8, "--cases", 1, "--negatives", 2, "--repeats", 1]
    done = bench("train", "--model", tiny_model, "--dtype", "float32", *sizes)
    assert "40+3x8/pairwise" in done.out
    assert "relative difference of a gradient" in done.out


def test_real_queries_come_from_a_configuration_or_two_files(tiny_model, bench, tmp_path):
    from pipeline_data import write_data

    write_data(tmp_path, items=60)
    files = ["--interactions", "clicks.csv", "--items", "products.jsonl"]
    sizes = ["--queries", 2, "--candidates", 5, "--candidates", 8, "--repeats", 1]
    own = ["--model", tiny_model, "--dtype", "float32", "--variant", "tree"]
    done = bench("score", *files, *own, *sizes, "--json")
    records = [json.loads(line) for line in done.out.splitlines()]
    assert {record["variant"].split("/")[0] for record in records} == {"clicks-5", "clicks-8"}
    assert {record["prompts"] for record in records} == {10, 16}
    assert "both --interactions and --items" in bench("score", *files[:2], code=2).err


def test_mistakes_are_told_in_a_line(tiny_model, bench):
    assert "--dtype" in bench("train", "--dtype", "float12", code=2).err
    assert (
        "did you mean tree" in bench("score", "--model", tiny_model, "--variant", "tre", code=2).err
    )
    said = bench("summarize", "industral", code=2).err
    assert "industral" in said
    assert "did you mean industrial" in said
    assert "name a configuration" in bench("overhead", code=2).err
    with pytest.raises(SystemExit):
        bench("train", "--cases", 0)


def test_all_writes_a_page_of_what_can_run_and_says_what_cannot(tiny_model, bench, tmp_path):
    words = ["--model", tiny_model, "--dtype", "float32", "--device", "cpu", "--data", tmp_path]
    words += ["--repeats", 1, "--interactions", 20_000, "--only", "score", "--only", "prepare"]
    done = bench("all", *words, "-o", "page.md", "--json")
    records = [json.loads(line) for line in done.out.splitlines()]
    assert records[0]["variant"] == "350+20x60/pairwise"
    assert [one["variant"] for one in records[-2:]] == ["2000-interactions", "20000-interactions"]
    for name in ("industrial", "movies"):
        assert f"score, {name}: not run: " in done.err
    text = (tmp_path / "page.md").read_text("utf-8")
    titles = [one.title.partition(":")[0] for one in tables_of(text)]
    assert titles[0].startswith("score, 350+20x60")
    assert titles[1:3] == ["score, industrial", "score, movies"]
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


def test_every_step_for_a_gpu_works(bench, tmp_path, monkeypatch, capsys):
    def alone(words, **_):
        """What a process of its own does, which `train` starts above."""
        memory.main(*words[3:])
        return SimpleNamespace(returncode=0, stdout=capsys.readouterr().out)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(memory, "subprocess", SimpleNamespace(run=alone))
    own = ["-o", "gpu.md", "--repeats", 1]
    bench("gpu", "--tiny", *own)
    text = (tmp_path / "gpu.md").read_text()
    assert "failed" not in text
    assert "not run" not in text
    ways = ("40+10x8/tree", "40+5x8/tree/alone", "40+5x8/pairwise", "generate-4", "continuous-4")
    assert all(f"| {way} |" in text for way in ways), text
    assert "items a second" in text
    assert "no CUDA device" in bench("gpu", *own, code=2).err


def test_the_script_for_a_gpu_gives_the_bench_what_it_is_given(tmp_path):
    script = Path(__file__).parents[2] / "benchmarks" / "gpu.sh"
    how = {"capture_output": True, "text": True, "check": False, "cwd": tmp_path}
    environment = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run(["sh", str(script), "--tiny", "--repeats", "0"], env=environment, **how)
    assert done.returncode == 2
    assert "benchmarks gpu: error: argument --repeats" in done.stderr
