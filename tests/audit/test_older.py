"""The audit tells whether the history before the recent items has anything to tell."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import polars as pl
import pytest
from planted import CONFIG, change

from trsr.config import load_config
from trsr.experiments.audit import Check, audit
from trsr.experiments.audit.history_signal import NAMES
from trsr.pipeline import run

THEMES = ["steel", "bolt", "drill", "tape", "lamp", "mask", "glove", "pump", "valve", "wire"]


def name_of(n: int) -> str:
    return "no" + "".join("abcdefghij"[int(digit)] for digit in str(n))


def write(folder: Path, older_tell: bool, *, users: int = 150) -> None:
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
            if older_tell:
                taken = [*of_theme[:4], *others[:2], *of_theme[4:5]]
            else:
                taken = [*others[:4], *of_theme[:3]]
            for step, n in enumerate(taken):
                file.write(f"u{user},{name_of(n)},{100 * step}\n")


def prepared(folder: Path, *settings: str) -> Path:
    (folder / "mine.toml").write_text(CONFIG)
    asked = ["summarize.strategy=none", *settings]
    list(run(load_config(folder / "mine.toml", [f"run.folder={folder / 'run'}", *asked])))
    return folder / "run"


def looked(folder: Path) -> dict[str, Check]:
    found = {check.name: check for check in audit(folder).checks}
    return {view: found[name] for view, name in NAMES.items()}


def test_older_items_that_tell_of_the_target_are_seen(tmp_path: Path) -> None:
    write(tmp_path, older_tell=True)
    found = looked(prepared(tmp_path))
    for check in found.values():
        assert check.state == "ok"
        assert check.numbers["low"] > 0.1  # type: ignore[operator]
        assert check.numbers["queries"] == 150
        assert "no gain" not in check.seen


def test_older_items_that_tell_nothing_are_seen(tmp_path: Path) -> None:
    write(tmp_path, older_tell=False)
    told = prepared(tmp_path)
    words = looked(told)["words"]
    assert words.state == "ok"  # nothing is summarized, so nothing is lost
    assert words.numbers["auc"] > 0.8  # type: ignore[operator]
    assert abs(words.numbers["gain"]) < 0.02  # type: ignore[arg-type]
    assert words.numbers["p"] > 0.05  # type: ignore[operator]
    assert "little for a summary to tell" in words.seen


def test_a_run_that_summarizes_them_is_warned(tmp_path: Path) -> None:
    write(tmp_path, older_tell=False)
    found = looked(prepared(tmp_path, "summarize.strategy=recurrent"))
    assert found["words"].state == "warning"


def test_where_all_is_told_or_nothing_recent_it_says_so(tmp_path: Path) -> None:
    write(tmp_path, older_tell=True)
    folder = prepared(tmp_path, "prompts.recent=9")
    assert {check.state for check in looked(folder).values()} == {"skipped"}
    assert "tell the last 9 one by one, and 0 test queries" in looked(folder)["words"].seen
    shutil.rmtree(folder)
    folder = prepared(tmp_path, "prompts.recent=0")
    assert "no recent items" in looked(folder)["words"].seen


def test_the_order_of_cases_and_candidates_changes_nothing(tmp_path: Path) -> None:
    write(tmp_path, older_tell=True)
    folder = prepared(tmp_path, 'rank.rankers=["popular"]')
    before = {view: dict(check.numbers) for view, check in looked(folder).items()}
    change(folder, "cases.test.parquet", pl.col("candidates").list.reverse())
    path = folder / "cases.test.parquet"
    pl.read_parquet(path).reverse().write_parquet(path)
    after = {view: dict(check.numbers) for view, check in looked(folder).items()}
    assert after.keys() == before.keys()
    for view, numbers in after.items():
        assert numbers == pytest.approx(before[view])
