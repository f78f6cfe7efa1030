"""The report as Markdown and LaTeX."""

from __future__ import annotations

import re

import pytest

from trsr.metrics import Report, evaluate
from trsr.report import Page
from trsr.report.markdown_report import latex, markdown
from trsr.types import Case, Interaction, Item, Query, RankedList, UserHistory

ITEMS = tuple(Item(f"i{n}") for n in range(4))


def report(lengths: list[int], rankers: tuple[str, ...] = ("random", "llm")) -> Report:
    cases = []
    for n, length in enumerate(lengths):
        past = tuple(Interaction(ITEMS[0], float(t)) for t in range(length))
        cases.append(Case(Query(f"q{n}", UserHistory(f"u{n}", past), ITEMS), frozenset({"i0"})))
    # The last ranker is always right, the others always wrong.
    lists = {
        name: [
            RankedList.of(one.query, [1.0 if name == rankers[-1] else -1.0, 0.3, 0.2, 0.1])
            for one in cases
        ]
        for name in rankers
    }
    return evaluate(cases, lists, ["recall@1", "mrr@4"])


EVIL = "a|b_<script>*x*\n# &%$#{}~^\\"


def test_markdown_holds_every_part_and_its_tables_are_whole() -> None:
    shown = report([1] * 20 + [5] * 20, ("evil|_", "llm"))
    page = Page(title=EVIL)
    text = markdown(shown, page)
    for head in ("Results", "Differences to llm", "Files"):
        assert f"## {head}" in text
    assert "**1.000** ±.000" in text
    assert ".000 ±.000 ↓" in text
    assert "<script>" not in text.replace(r"\<script\>", "")
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(widths) == 1


def test_latex_is_whole_and_escaped() -> None:
    text = latex(report([1] * 30, (EVIL, "llm")))
    assert r"\textbf{1.000}" in text
    assert r"$\downarrow$" in text
    body = text.split("\\midrule")[1]
    assert r"\&\%\$\#\{\}\textasciitilde{}\textasciicircum{}\textbackslash{}" in body
    for line in body.strip().splitlines():
        assert len(re.findall(r"(?<!\\)&", line)) == 2
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")
    for name in ("table", "tabular"):
        assert text.count(f"\\begin{{{name}}}") == text.count(f"\\end{{{name}}}") == 1


@pytest.mark.parametrize("queries", [0, 1])
def test_reports_that_can_say_little_are_still_texts(queries: int) -> None:
    shown = report([2] * queries)
    text = markdown(shown, Page())
    assert "can be said" in text
    assert "nan" not in text.lower()
    assert "nan" not in latex(shown).lower()
