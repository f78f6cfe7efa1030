"""The page: whole, closed to the network, and safe with any text in it."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import re
from pathlib import Path

import pytest
from page_reader import Reader

from trsr.metrics import Report, evaluate
from trsr.metrics.report import Note
from trsr.report import Page, ShownBlock, ShownCandidate, ShownUser, StageTime, write_html
from trsr.report.charts import Axis, dot_chart, line_chart
from trsr.report.costs import RankerCost, brief_seconds
from trsr.report.markdown_report import latex, markdown
from trsr.report.words import count_line
from trsr.types import Case, Interaction, Item, Query, RankedList, UserHistory

EVIL = "<script>alert(1)</script>\x00 \ud800 <|im_end|> \"'&amp; \u202eمرحبا 猫"
pytestmark = pytest.mark.usefixtures("few_draws")
COSTS = (
    RankerCost("random", 40, preparing=0.0, seconds=0.0004),
    RankerCost("llm", 40, preparing=75.0, seconds=80.0, prompts=840, tokens=420_000),
)


@functools.cache
def report(queries: int = 40, rankers: tuple[str, ...] = ("random", "llm")) -> Report:
    items = tuple(Item(f"i{n}") for n in range(5))
    cases = [
        Case(Query(f"q{n}", UserHistory(f"u{n}", ()), items), frozenset({f"i{n % 5}"}))
        for n in range(queries)
    ]
    lists = [RankedList.of(case.query, [float(n % 3), 1, 2, 0, 0]) for n, case in enumerate(cases)]
    return evaluate(cases, dict.fromkeys(rankers, lists), ["recall@1", "recall@3", "mrr@3", "auc"])


def read(tmp_path: Path, page: Page | None = None, shown: Report | None = None) -> Reader:
    path = tmp_path / "report.html"
    write_html(shown or report(), path, page)
    return Reader(path.read_text("utf-8"))


def full(text: str) -> Page:
    """A page with every part, and the text in each place that takes one."""
    candidates = [ShownCandidate(text, 0.75, True), ShownCandidate(text, None, False)]
    return Page(
        title=text,
        subtitle=text,
        settings={
            "seed": 1,
            "train": {text: text, "targets": ("q", "v"), "on": True, "deep": {"x": None}},
        },
        stages=[StageTime(text, 75.0, {text: text, "tokens": 123456}), StageTime("rank", None)],
        curve=[(step, 1 / step) for step in range(1, 60)],
        validation=[(10, 0.5)],
        examples=[ShownUser(text, [ShownBlock([text, text], text)], text, candidates, text)],
        costs=COSTS,
    )


def warned(*texts: str) -> Report:
    """A report of whole catalogs with such warnings, and no other note."""
    plain = dataclasses.replace(report(), notes=(), warnings=())
    return plain.noted(Note(text, serious=True) for text in texts)


def test_the_page_shows_every_part(tmp_path: Path) -> None:
    reader = read(tmp_path, full("Plain words"))
    for words in (
        "1 min 15 s",
        "123,456",
        "tokens",
        "q, v",
        "deep.x",
        "taken",
        ".750",
        "Plain words",
    ):
        assert words in reader.text
    # metrics, curves, one p(yes) bar
    assert len(reader.named("svg")) == 3 + 2 + 1
    assert len(reader.named("polyline")) == 2  # the long curve and its running mean


def test_text_never_becomes_markup(tmp_path: Path) -> None:
    plain = read(tmp_path, full("Plain words"), warned("Plain words"))
    evil = read(tmp_path, full(EVIL), warned(EVIL))
    assert [tag for tag, _ in evil.tags] == [tag for tag, _ in plain.tags]
    assert not evil.named("script")
    assert "<script>alert(1)</script>" in evil.text
    raw = (tmp_path / "report.html").read_text("utf-8")
    assert "<script" not in raw
    assert "\x00" not in raw


def test_a_rankers_name_never_becomes_markup(tmp_path: Path) -> None:
    reader = read(tmp_path, shown=report(rankers=("<script>x</script>", "<b>")))
    assert not reader.named("script")
    assert not reader.named("b") or "<b>" in reader.text


def test_the_page_loads_nothing_and_runs_nothing(tmp_path: Path) -> None:
    reader = read(tmp_path, full("x"))
    banned = {"script", "link", "img", "iframe", "object", "embed", "base", "form"}
    assert not banned & {tag for tag, _ in reader.tags}
    for _, attributes in reader.tags:
        assert not [name for name in attributes if name.startswith("on") or name == "src"]
        assert (attributes.get("href") or "#").startswith("#")
    css = (tmp_path / "report.html").read_text("utf-8")
    assert not re.search(r"@import|url\(|https?://", css)


def test_a_screen_reader_finds_its_way(tmp_path: Path) -> None:
    reader = read(tmp_path, full("x"))
    assert reader.named("html")[0]["lang"] == "en"
    assert len(reader.named("h1")) == 1
    assert all(cell.get("scope") in ("col", "row") for cell in reader.named("th"))
    drawings = [svg for svg in reader.named("svg") if svg.get("aria-hidden") != "true"]
    names = {attributes.get("id") for _, attributes in reader.tags} - {None}
    for svg in drawings:
        assert svg["role"] == "img"
        assert set((svg["aria-labelledby"] or "").split()) <= names
    ids = [attributes["id"] for _, attributes in reader.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {(a["href"] or "")[1:] for a in reader.named("a")}
    assert targets <= names


def test_a_screen_reader_tells_example_users_apart(tmp_path: Path) -> None:
    candidates = [ShownCandidate("x", 0.75, True), ShownCandidate("x", None, True, "–", "not told")]
    users = [
        ShownUser(name, [ShownBlock(["x"], "x", "Block 1")], "x", candidates, "llm", steps=["x"])
        for name in ("ann", "bob", "bob")  # a user may be asked about twice
    ]
    reader = read(tmp_path, Page(examples=users))
    captions = re.findall("<caption>(.*?)</caption>", (tmp_path / "report.html").read_text("utf-8"))
    assert len(captions) == len(set(captions))
    assert sum("of user <bdi>bob</bdi> (example" in caption for caption in captions) == 2
    inside = [tag for tag, _ in reader.tags if tag in ("table", "caption")]
    assert inside == ["table", "caption"] * (2 + len(users))  # results and differences
    rows = [one for one in reader.named("th") if one["scope"] == "row"]
    assert len(rows) >= len(users) * len(candidates)
    tags = [tag for tag, _ in reader.tags]
    told = [after for one, after in itertools.pairwise(tags) if one == "summary"]
    assert told[-3:] == ["h3"] * 3
    assert "not told" in reader.text


@pytest.mark.parametrize("queries", [0, 1])
def test_a_report_that_can_say_little_is_still_a_page(tmp_path: Path, queries: int) -> None:
    reader = read(tmp_path, shown=report(queries))
    assert "can be said" in reader.text
    assert "nan" not in reader.text.lower()


def test_what_is_to_be_read_before_the_numbers_stands_before_them_and_there_alone(
    tmp_path: Path,
) -> None:
    shown = report().noted([Note("A draw like others."), Note("It hardly learned.", serious=True)])
    read(tmp_path, shown=shown)
    page = (tmp_path / "report.html").read_text("utf-8")
    for words, (before, after) in (
        (page, ('id="warnings"', 'class="cards"')),
        (markdown(shown, Page()), ("## Before you use these numbers", "## Results")),
    ):
        box, _, rest = words.partition(before)[2].partition(after)
        for warning in ("KDD 2020", "It hardly learned."):
            assert warning in box
            assert warning not in rest
        assert "A draw like others." in rest
        assert "A draw like others." not in box
    assert shown.to_json()["notes"] == [
        *report().notes,
        "A draw like others.",
        "It hardly learned.",
    ]

    read(tmp_path, shown=warned())
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "Before you use" not in page + markdown(warned(), Page())
    assert 'class="notes"' not in page


def test_a_megabyte_of_text_is_cut(tmp_path: Path) -> None:
    text = "long " * 200_000
    candidates = [ShownCandidate(text, 0.5, True)]
    example = ShownUser(text, [ShownBlock([text], text)], text, candidates)
    read(tmp_path, Page(examples=[example], settings={"a": text}))
    assert (tmp_path / "report.html").stat().st_size < 60_000


def test_dots_lie_where_the_means_are() -> None:
    shown = report()
    chart = dot_chart(shown, "recall@3")
    assert chart is not None
    assert [dot.ranker for dot in chart.dots] == ["random", "llm"]
    assert [dot.main for dot in chart.dots] == [False, True]
    for dot in chart.dots:
        assert 0 <= dot.low < dot.x < dot.high <= 100  # percent
    assert 0 <= chart.chance <= 100
    first, last = chart.ticks[0], chart.ticks[-1]
    mean = shown.means("llm")["recall@3"]
    share = (mean - float(first.text)) / (float(last.text) - float(first.text))
    assert chart.dots[1].x == pytest.approx(first.at + share * (last.at - first.at), abs=0.05)


def test_an_axis_of_shares_marks_nothing_beyond_0_and_1() -> None:
    for values in ([1.0, 1.0], [0.0, 0.0], [0.9, 1.0], [0.3, 0.4]):
        marks = [float(tick.text) for tick in Axis(values, 0, 100, unit=True).ticks]
        assert marks
        assert all(0 <= mark <= 1 for mark in marks)
    assert max(float(tick.text) for tick in Axis([1.0, 1.0], 0, 100).ticks) > 1


def test_curves_of_any_kind_are_drawn() -> None:
    assert line_chart("loss", []) is None
    assert line_chart("loss", [(1, math.nan)]) is None
    alone = line_chart("loss", [(5, 0.25)])
    assert alone is not None
    assert " " not in alone.raw
    flat = line_chart("loss", [(step, 0.0) for step in range(10)])
    assert flat is not None
    assert not flat.smooth
    holed = line_chart("loss", [(1, 2.0), (2, math.inf), (3, 1.0)])
    assert holed is not None
    assert holed.summary == "loss: 2.000 at step 1, 1.000 at step 3"
    long = line_chart("loss", [(step, 1 / (step + 1)) for step in range(10_000)])
    assert long is not None
    assert len(long.raw.split()) <= 400
    assert long.smooth
    assert 2 <= len(long.x_ticks) <= 8


def test_significance_is_on_the_page_in_words_too(tmp_path: Path) -> None:
    items = tuple(Item(f"i{n}") for n in range(4))
    cases = [
        Case(Query(f"q{n}", UserHistory(f"u{n}", ()), items), frozenset({"i0"})) for n in range(30)
    ]
    lists = {
        name: [RankedList.of(case.query, scores) for case in cases]
        for name, scores in (("bad", [0.0, 1, 2, 3]), ("llm", [3.0, 2, 1, 0]))
    }
    reader = read(tmp_path, shown=evaluate(cases, lists, ["recall@1"]))
    assert "significantly lower than llm" in reader.text
    assert "recall@1 · llm" in reader.text
    reader = read(
        tmp_path,
        shown=evaluate(cases, {**lists, "llm": lists["bad"], "good": lists["llm"]}, ["recall@1"]),
    )
    assert "significantly higher than llm" in reader.text
    assert "recall@1 · good" in reader.text  # the headline is about the best
    # and the page says so, as the highlighted row is another one
    assert "figures of good, which has the highest recall@1. llm is the ranker" in reader.text
    assert "The highlighted row is llm, with which every other ranker is compared" in reader.text


def test_a_stages_counts_are_in_words_and_zeros_are_left_out() -> None:
    info = {"asked": 1224, "from_store": 77, "cached_unknown": 0, "words_mean": 3.5, "seed": 3}
    assert (
        count_line(info)
        == "prompts answered by the model 1,224, prompts answered from the store 77"
    )
    assert count_line({"steps": 0, "why": "nothing to train", "unfit": 0}) == "nothing to train"


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(None, "–"), (0.0, "0 µs"), (3.14e-6, "3.14 µs"), (0.02, "20 ms"), (1.85, "1.85 s")],
)
def test_short_times_are_told_in_their_unit(seconds: float | None, said: str) -> None:
    assert brief_seconds(seconds) == said


def test_costs_stand_in_a_table_too_and_what_is_not_known_is_said(tmp_path: Path) -> None:
    stored = RankerCost(
        "llm", 40, 1.0, 2.0, prompts=840, from_store=800, tokens=20_000, cached_unknown=800
    )
    reader = read(tmp_path, Page(costs=[COSTS[0], stored]))
    assert "10 µs" in reader.text
    assert "Of llm many answers were in the store" in reader.text
    assert "95 %" in reader.text
    assert len(reader.named("svg")) == 3
    reader = read(tmp_path, Page(costs_note="Nothing was recorded."))
    assert "Nothing was recorded." in reader.text
    assert "#quality-cost" in [a["href"] for a in reader.named("a")]
    assert "Before the first query" not in read(tmp_path, Page()).text


def test_a_blend_costs_no_less_than_its_members_and_training_counts():
    knn = RankerCost("knn", 10, preparing=2.0, seconds=0.5)
    llm = RankerCost("llm", 10, preparing=0.1, seconds=30.0, prompts=200, tokens=5_000)
    blend = RankerCost(
        "blend",
        10,
        preparing=4.0,
        seconds=0.2,
        prompts=200,
        from_store=200,
        cached_seconds=28.0,
        cached_tokens=5_000,
    )
    whole = blend.with_parts([knn, llm], training=60.0)
    assert whole.seconds_a_query == pytest.approx(3.05)
    assert whole.preparing == pytest.approx(66.1)
    assert whole.tokens_a_query == 500
    assert llm.with_parts([], training=60.0).preparing == pytest.approx(60.1)
    assert blend.with_parts([], 0.0) == blend


# --- The report as Markdown and LaTeX


ITEMS = tuple(Item(f"i{n}") for n in range(4))


def lopsided(lengths: list[int], rankers: tuple[str, ...] = ("random", "llm")) -> Report:
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


EVIL_WORDS = "a|b_<script>*x*\n# &%$#{}~^\\"


def test_markdown_holds_every_part_and_its_tables_are_whole() -> None:
    shown = lopsided([1] * 20 + [5] * 20, ("evil|_", "llm"))
    page = Page(title=EVIL_WORDS)
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
    text = latex(lopsided([1] * 30, (EVIL_WORDS, "llm")))
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
    shown = lopsided([2] * queries)
    text = markdown(shown, Page())
    assert "can be said" in text
    assert "nan" not in text.lower()
    assert "nan" not in latex(shown).lower()
