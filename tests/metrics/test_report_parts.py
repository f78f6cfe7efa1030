"""Groups by history, calibration, and the report as Markdown and LaTeX."""

from __future__ import annotations

import itertools
import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trsr.metrics import Report, evaluate
from trsr.metrics.calibration import calibrate
from trsr.metrics.groups import history_groups
from trsr.report import Page, StageTime
from trsr.report.costs import RankerCost
from trsr.report.html import render
from trsr.report.length_chart import MOST, length_chart
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


def test_groups_are_quartiles_of_the_queries() -> None:
    groups = history_groups(report(list(range(1, 41))))
    assert [group.queries for group in groups] == [10, 10, 10, 10]
    assert [group.name for group in groups] == ["1 to 10", "11 to 20", "21 to 30", "31 to 40"]
    one = groups[0].means["llm", "mrr@4"]
    assert (one.mean, one.low, one.high) == (1, 1, 1)
    assert groups[0].against["random", "mrr@4"].mean == pytest.approx(-0.75)
    plain = json.loads(json.dumps([group.to_json() for group in groups], allow_nan=False))
    assert plain[3]["rankers"]["random"]["recall@1"]["against_main"]["difference"] == -1
    assert "against_main" not in plain[3]["rankers"]["llm"]["recall@1"]


@given(st.lists(st.integers(0, 9), min_size=1, max_size=12), st.sets(st.integers(0, 12)))
def test_groups_hold_every_query_once_and_never_part_a_length(lengths, bins) -> None:
    groups = history_groups(report(lengths, ("llm",)), sorted(bins))
    assert sum(group.queries for group in groups) == len(lengths)
    for before, after in itertools.pairwise(groups):
        assert before.longest < after.shortest
    if bins:
        assert len(groups) <= len(bins) + 1
    else:
        assert len(groups) <= 4


def test_set_bins_begin_where_they_say() -> None:
    groups = history_groups(report([3, 4, 5, 9, 10, 50]), [5, 10])
    assert [group.name for group in groups] == ["3 to 4", "5 to 9", "10 to 50"]
    assert history_groups(report([])) == []


def test_the_page_draws_each_metric_by_length_of_history_and_tells_the_numbers() -> None:
    shown = report(list(range(1, 41)))
    groups = history_groups(shown)
    text = render(shown, Page(groups=groups))
    assert text.count('class="leader main"') == text.count('class="leader kind1"') == 2  # metrics
    assert text.count('class="course main"') == 2 * (len(groups) - 1)
    assert 'href="#lengths"' in text
    assert ">21 to 30</th>" in text
    assert "llm: 1.000 of 1 to 10" in text
    assert 'id="lengths"' not in render(shown, Page())
    chart = length_chart(shown, "mrr@4", groups)
    assert chart is not None
    *_, main = chart.curves
    assert main.main
    assert main.ranker == shown.main
    assert [tick.text for tick in chart.x_ticks] == ["1–10", "11–20", "21–30", "31–40"]
    assert [x for x, *_ in main.dots] == [tick.at for tick in chart.x_ticks]
    other, *_ = chart.curves
    assert (other.dots[0][1] < main.dots[0][1]) == (shown.main == "random")  # y grows downwards
    assert length_chart(shown, "mrr@4", groups[:1]) is None


@pytest.mark.parametrize("count", [1, 3, 6, 25])
def test_names_beside_the_courses_do_not_hide_each_other(count: int) -> None:
    shown = report([1, 2, 3, 4] * 4, tuple(f"ranker{n}" for n in range(count)))
    chart = length_chart(shown, "recall@1", history_groups(shown))
    assert chart is not None
    lines = sorted(one.label_y for one in chart.curves)
    assert len(lines) == min(count, MOST)
    assert all(after - before >= 14.9 for before, after in itertools.pairwise(lines))
    assert lines[0] > 0
    assert lines[-1] <= chart.base + 5
    assert len(chart.left_out) == count - len(lines)


def test_names_of_many_groups_stand_in_several_rows() -> None:
    for lengths, bins, rows in (
        (list(range(1, 41)), [], 1),
        (list(range(100, 140)), [], 2),
        (list(range(1, 41)), [5, 10, 15, 20, 25, 30, 35], 2),
        (list(range(100, 140)), [105, 110, 115, 120, 125, 130, 135], 3),
    ):
        shown = report(lengths)
        groups = history_groups(shown, bins)
        text = render(shown, Page(groups=groups)).partition('class="fluid lengths"')[2]
        drawn = text.partition("</svg>")[0]
        marks = re.findall(r'y="([\d.]+)" text-anchor="middle"', drawn)
        assert len(marks) == len(groups)
        assert len(set(marks)) == rows


def test_of_many_rankers_the_main_and_the_best_are_drawn_and_the_others_named() -> None:
    cases = [
        Case(
            Query(
                f"q{n}", UserHistory(f"u{n}", (Interaction(ITEMS[0], 0.0),) * (1 + n % 3)), ITEMS
            ),
            frozenset({"i0"}),
        )
        for n in range(30)
    ]
    # r0 is right of no user, r1 of two, r2 of four, …; llm of none
    lists = {
        f"r{rate}": [
            RankedList.of(one.query, [1.0 if n < 2 * rate else -1.0, 0.3, 0.2, 0.1])
            for n, one in enumerate(cases)
        ]
        for rate in range(14)
    }
    shown = evaluate(cases, {**lists, "llm": lists["r0"]}, ["recall@1"])
    groups = history_groups(shown)
    chart = length_chart(shown, "recall@1", groups)
    assert chart is not None
    assert {one.ranker for one in chart.curves} == {"llm", "r13", "r12", "r11", "r10", "r9"}
    assert len({one.kind for one in chart.curves}) == MOST
    assert chart.left_out == tuple(f"r{rate}" for rate in range(9))
    text = " ".join(render(shown, Page(groups=groups)).split())
    assert "not drawn: r0, r1, r2, r3, r4, r5, r6, r7, r8<" in text
    assert "holds llm and the 5 others with the highest means" in text
    table = text.partition("Mean and 95 % interval, by length of history")[2]
    assert all(f">{name}</th>" in table for name in chart.left_out)
    few = report([1, 2, 3, 4] * 4, tuple(f"r{n}" for n in range(MOST)))
    assert "not drawn" not in render(few, Page(groups=history_groups(few)))


def test_calibration_by_hand() -> None:
    found = calibrate("llm", np.array([0.05, 0.05, 0.95, 1.0]), np.array([0.0, 1, 1, 1]))
    low, high = found.bins
    assert (low.low, low.high, low.candidates, low.right) == (0.0, 0.1, 2, 0.5)
    assert low.predicted == pytest.approx(0.05)
    assert (high.candidates, high.right) == (2, 1.0)
    assert found.ece == pytest.approx((2 * 0.45 + 2 * 0.025) / 4)
    assert found.brier == pytest.approx((0.05**2 + 0.95**2 + 0.05**2 + 0) / 4)
    assert (found.base_rate, found.candidates) == (0.75, 4)


def test_true_probabilities_are_calibrated_and_shifted_ones_are_not() -> None:
    draw = np.random.default_rng(1)
    probability_label = draw.random(40_000)
    right = (draw.random(40_000) < probability_label).astype(float)
    true, shifted = (
        calibrate("a", probability_label, right),
        calibrate("b", probability_label**2, right),
    )
    assert true.ece is not None
    assert shifted.ece is not None
    assert true.ece < 0.02 < shifted.ece
    assert calibrate("c", np.array([]), np.array([])).ece is None


EVIL = "a|b_<script>*x*\n# &%$#{}~^\\"


def test_markdown_holds_every_part_and_its_tables_are_whole() -> None:
    shown = report([1] * 20 + [5] * 20, ("evil|_", "llm"))
    page = Page(
        title=EVIL,
        groups=history_groups(shown),
        calibrations=[calibrate("llm", np.array([0.5]), np.array([1.0]))],
        costs=[RankerCost("llm", 40, 75.0, 80.0, prompts=840, tokens=420_000)],
        stages=[StageTime("rank", 80.0, {"tokens": 420_000, "stopped_early": False})],
        settings={"run": {"seed": 7}, "prompts": {"style": EVIL}},
        changed={"prompts": {"style": EVIL}},
        made=[("machine", EVIL)],
    )
    text = markdown(shown, page)
    for head in ("Results", "Differences to llm", "By length", "Calibration", "Files"):
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
    text = markdown(shown, Page(groups=history_groups(shown)))
    assert "can be said" in text
    assert "nan" not in text.lower()
    assert "nan" not in latex(shown).lower()
