"""The audit tells whether the history before the recent items helps to rank."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import polars as pl
import pytest
from planted import CONFIG, change, check

from trsr.config import load_config
from trsr.experiments.audit import Check
from trsr.experiments.audit.history_signal import NAME
from trsr.pipeline import run

THEMES = ["steel", "bolt", "drill", "tape", "lamp", "mask", "glove", "pump", "valve", "wire"]


def name_of(n: int) -> str:
    return "no" + "".join("abcdefghij"[int(digit)] for digit in str(n))


def write(folder: Path, older_signal: bool, *, users: int = 150) -> None:
    """Users whose target is of the theme of their older items, or of that of their last two.

    The other part of the history is of any themes.
    """
    draw = random.Random(3)
    themes = {n: THEMES[n % len(THEMES)] for n in range(200)}
    with (folder / "products.jsonl").open("w") as file:
        for n, theme in themes.items():
            file.write(json.dumps({"sku": name_of(n), "title": f"{theme} {name_of(n)}"}) + "\n")
    with (folder / "clicks.csv").open("w") as file:
        file.write("customer,sku,when\n")
        for user in range(users):
            theme = draw.choice(THEMES)
            of_theme = draw.sample([n for n in themes if themes[n] == theme], 7)
            others = draw.sample([n for n in themes if themes[n] != theme], 7)
            if older_signal:
                taken = [*of_theme[:4], *others[:2], *of_theme[4:5]]
            else:
                taken = [*others[:4], *of_theme[:3]]
            for step, n in enumerate(taken):
                file.write(f"u{user},{name_of(n)},{100 * step}\n")


def prepared(folder: Path, *settings: str) -> Path:
    (folder / "mine.toml").write_text(CONFIG)
    chosen = ["summarize.strategy=none", *settings]
    list(run(load_config(folder / "mine.toml", [f"run.folder={folder / 'run'}", *chosen])))
    return folder / "run"


def looked(folder: Path) -> Check:
    return check(folder, NAME)


def test_older_items_that_point_to_the_target_are_seen(tmp_path: Path) -> None:
    write(tmp_path, older_signal=True)
    found = looked(prepared(tmp_path))
    assert found.state == "ok"
    assert found.numbers["low"] > 0.1  # type: ignore[operator]
    assert found.numbers["queries"] == 150
    assert "no gain" not in found.seen


def test_older_items_that_add_nothing_are_seen(tmp_path: Path) -> None:
    write(tmp_path, older_signal=False)
    words = looked(prepared(tmp_path))
    assert words.state == "ok"  # nothing is summarized, so nothing is lost
    assert words.numbers["auc"] > 0.8  # type: ignore[operator]
    assert abs(words.numbers["gain"]) < 0.02  # type: ignore[arg-type]
    assert words.numbers["p"] > 0.05  # type: ignore[operator]
    assert "a summary can add little" in words.seen


def test_a_run_that_summarizes_them_is_warned(tmp_path: Path) -> None:
    write(tmp_path, older_signal=False)
    found = looked(prepared(tmp_path, "summarize.strategy=recurrent"))
    assert found.state == "warning"


def test_where_all_is_listed_or_nothing_recent_it_says_so(tmp_path: Path) -> None:
    write(tmp_path, older_signal=True)
    folder = prepared(tmp_path, "prompts.recent=9")
    assert looked(folder).state == "skipped"
    assert "list the last 9 one by one, and 0 test queries" in looked(folder).seen
    shutil.rmtree(folder)
    folder = prepared(tmp_path, "prompts.recent=0")
    assert "no recent items" in looked(folder).seen


def test_the_order_of_cases_and_candidates_changes_nothing(tmp_path: Path) -> None:
    write(tmp_path, older_signal=True)
    folder = prepared(tmp_path, 'rank.rankers=["popular"]')
    before = dict(looked(folder).numbers)
    change(folder, "cases.test.parquet", pl.col("candidates").list.reverse())
    path = folder / "cases.test.parquet"
    pl.read_parquet(path).reverse().write_parquet(path)
    assert dict(looked(folder).numbers) == pytest.approx(before)
