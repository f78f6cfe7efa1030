from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path

import pytest

from benchmarks.options import AllOptions
from benchmarks.page import MARK, check_page, made, notes_of, page, tables_of, write_page
from benchmarks.records import HEADER, Record, Result, rows
from benchmarks.suite import run_all
from trsr.errors import ConfigError
from trsr.progress import Silent

PAIRWISE = Record(
    "score", "8+2x3/pairwise", "cpu", "float32", 2, 22, 14, 22 / 14, 4.0, 5.5, 1.0, 0.05, 0.5, 2**30
)
PREPARED = Record(
    "prepare", "100-interactions", "cpu", "", *(None,) * 4, 120.0, None, 1.0, 0, None, None
)


def table_lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("|")]


def test_a_row_says_what_a_record_holds():
    (row,) = rows([PAIRWISE])
    assert dict(zip(HEADER, row, strict=True)) == {
        "variant": "8+2x3/pairwise",
        "dtype": "float32",
        "prompts": "2",
        "tokens": "22",
        "distinct": "14",
        "token ratio": "1.57",
        "seconds": "4",
        "tokens/s": "6",
        "prompts/s": "0.5",
        "ratio": "1.00",
        "spread": "5.0%",
        "peak share": "50.0%",
        "peak memory": "1.00 GiB",
    }
    (other,) = rows([PREPARED])
    assert other.count("–") == 9


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


def test_the_page_names_no_path_of_the_machine():
    home = str(Path.home())
    notes = (f"x: not run: the model in {home}/models/tiny cannot be loaded", "a ratio of 3/4")
    text = page(made([Result("score", (PAIRWISE,), notes)], "python -m benchmarks all"), "\n")
    assert home not in text
    assert "the model in … cannot be loaded" in text
    assert "a ratio of 3/4" in text
    assert "8+2x3/pairwise" in text
    sizes = AllOptions(
        model=f"{home}/models/tiny", data=Path(home), repeats=5, only=("score", "train")
    )
    assert sizes.command() == (
        "python -m benchmarks all --repeats 5 --model tiny --data FOLDER --only score --only train"
    )
    assert AllOptions().command() == "python -m benchmarks all"


def test_what_cannot_run_is_said_and_the_rest_goes_on(tmp_path, tiny_model):
    said = []
    sizes = AllOptions(
        model=str(tiny_model),
        dtype="float32",
        device="cpu",
        data=tmp_path,
        repeats=1,
        interactions=20_000,
        only=("score", "prepare"),
    )
    results = list(run_all(sizes, lambda name: contextlib.nullcontext(Silent()), said.append))
    by_title = {result.title.split(":")[0]: result for result in results}
    assert len(said) == 2  # industrial and movies
    assert "industrial" in said[0]
    assert by_title["score, industrial"].records == ()
    assert [one.variant for one in by_title["score, 350+20x60"].records][:1] == [
        "350+20x60/pairwise"
    ]
    benches = [one.bench for result in results for one in result.records]
    assert benches[-2:] == ["prepare", "prepare"]
    text = page(made(results, sizes.command()), "\n")
    assert str(tmp_path) not in text


def test_an_unknown_bench_is_refused():
    with pytest.raises(ConfigError, match="did you mean score"):
        list(
            run_all(
                AllOptions(only=("scor",)), lambda name: contextlib.nullcontext(Silent()), print
            )
        )
