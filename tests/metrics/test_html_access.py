"""The page for those who do not see it, see it small, print it, or must make the run again."""

from __future__ import annotations

import functools
import itertools
import re

import polars as pl
import pytest
from page_reader import Reader

from trsr.metrics import AnswerKey, Report, evaluate
from trsr.report import Page, ShownBlock, ShownCandidate, ShownUser, StageTime
from trsr.report.costs import RankerCost
from trsr.report.html import render
from trsr.report.markdown_report import latex, markdown
from trsr.types import Case, Interaction, Item, Query, RankedList, UserHistory

pytestmark = pytest.mark.usefixtures("few_draws")
ITEMS = tuple(Item(f"i{n}") for n in range(5))


@functools.cache
def report(rankers: tuple[str, ...] = ("random", "llm"), sampled: bool = True) -> Report:
    cases, lists = [], []
    for n in range(40):
        past = tuple(Interaction(ITEMS[0], float(t)) for t in range(1 + n % 4))
        query = Query(f"q{n}", UserHistory(f"u{n}", past), ITEMS)
        cases.append(Case(query, frozenset({f"i{n % 5}"})))
        lists.append(RankedList.of(query, [float(n % 3), 1, 2, 0, 0]))
    metrics = ["ndcg@10", "recall@1", "auc"]
    return evaluate(cases, dict.fromkeys(rankers, lists), metrics, sampled=sampled)


def page(shown: Report) -> Page:
    """A page with every part."""
    candidates = [ShownCandidate("x", 0.75, True), ShownCandidate("y", None, False)]
    return Page(
        settings={"run": {"seed": 7}, "model": {"name": "small", "tree": "auto"}},
        changed={"model": {"name": "small"}},
        made=[("machine", "a kind of processor"), ("torch", "2.0")],
        stages=[StageTime("rank", 80.0, {"tokens": 420_000, "stopped_early": False, "rich": True})],
        curve=[(step, 1 / step) for step in range(1, 60)],
        examples=[ShownUser("ann", [ShownBlock(["x"], "y")], "y", candidates, "llm")],
        costs=[
            RankerCost(scores.ranker, 40, 1.0, 4.0 + n, prompts=840, tokens=420_000)
            for n, scores in enumerate(shown.rankers)
        ],
    )


def test_every_table_has_a_caption_and_every_row_a_header() -> None:
    shown = report(tuple(f"ranker{n}" for n in range(12)))
    reader = Reader(render(shown, page(shown)))
    tags = [tag for tag, _ in reader.tags]
    tables = tags.count("table")
    assert tables == 8
    assert [after for one, after in itertools.pairwise(tags) if one == "table"] == [
        "caption"
    ] * tables
    assert all(words.strip() for words in reader.texts["caption"])
    assert len(set(reader.texts["caption"])) == tables
    firsts = [after for one, after in itertools.pairwise(reader.tags) if one[0] == "tr"]
    assert all(tag == "th" and told["scope"] in ("row", "col") for tag, told in firsts)


def test_headings_jump_no_level_and_what_may_scroll_takes_the_keyboard_and_nothing_else() -> None:
    shown = report()
    text = render(shown, page(shown))
    reader = Reader(text)
    levels = [int(tag[1]) for tag, _ in reader.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    parents: dict[str, list[dict[str, str | None]]] = {"table": [], "svg": []}
    for before, (tag, told) in itertools.pairwise(reader.tags):
        if tag in parents and told.get("aria-hidden") != "true":
            parents[tag].append(before[1])
    assert len(parents["svg"]) > 3
    scrolling = [told for told in parents["table"] if "scroll" in classes(told)]
    for told in scrolling:
        assert (told["tabindex"], told["role"]) == ("0", "region")
    labels = [told["aria-label"] for told in scrolling]
    assert len(set(labels)) == len(labels) == 3  # of numbers, a column a metric or cost
    stops = [told for _, told in reader.tags if "tabindex" in told]
    assert stops == scrolling
    # the words of other tables wrap, and no drawing is wider than its place
    assert all("fits" in classes(told) for told in parents["table"] if told not in scrolling)
    assert not re.search(r"svg[^{}]*\{[^}]*min-width", style(text))


def classes(told: dict[str, str | None]) -> list[str]:
    return (told.get("class") or "").split()


def style(text: str) -> str:
    return text.partition("<style>")[2].partition("</style>")[0]


def test_drawings_with_names_keep_the_size_of_their_words_on_a_phone() -> None:
    shown = report()
    text = render(shown, page(shown))
    fluid = re.findall(r'<svg class="fluid .*?</svg>', text, re.DOTALL)
    assert len(fluid) == 3  # metrics
    for drawing in fluid:
        assert "viewBox" not in drawing
        along = re.findall(r'\b(?:x1|x2|cx)="([^"]*)"', drawing)
        assert along
        assert all(at == "0" or at.endswith("%") for at in along)


def test_the_style_heeds_phones_printers_and_those_who_want_no_motion() -> None:
    css = style(render(report(), Page()))
    calm = "@media (prefers-reduced-motion: no-preference) { html { scroll-behavior: smooth; } }"
    assert calm in css
    assert css.count("scroll-behavior") == 1
    small = css.partition("@media (max-width: 560px) {")[2].partition("@media")[0]
    assert ".drawing text, .drawing .label { font-size: 13px; }" in small  # a drawing shrinks there
    assert "details::details-content" in css.partition("@media print {")[2]


def test_every_setting_is_told_and_the_changed_ones_apart() -> None:
    shown = report()
    reader = Reader(render(shown, page(shown)))
    changed = next(words for words in reader.texts["table"] if "Changed:" in words)
    others = next(words for words in reader.texts["table"] if "at trsr’s defaults" in words)
    assert "model.name" in changed
    assert "small" in changed
    assert "run.seed" not in changed
    assert re.search(r"run\.seed\s*7", others)
    assert "model.tree" in others
    made = next(words for words in reader.texts["table"] if "What the run was made with" in words)
    assert "a kind of processor" in made
    plain = Reader(render(shown, Page(settings={"seed": 7})))
    assert "All settings" in plain.texts["caption"]


def test_differences_stand_on_the_page_as_they_do_in_the_texts() -> None:
    shown = report(("popular", "random", "llm"))
    reader = Reader(render(shown, Page()))
    table = next(words for words in reader.texts["table"] if "less that of llm" in words)
    for head in ("Difference", "95 % interval", "p Holm", "d_z"):
        assert head in table
    assert len(re.findall(r"popular(?:ndcg@10|recall@1|auc)", table)) == 3
    assert "#differences" in [told.get("href") for tag, told in reader.tags if tag == "a"]
    alone = Reader(render(report(("llm",)), Page()))
    assert not [told for _, told in alone.tags if told.get("id") == "differences"]


def test_drawings_tell_means_with_their_intervals() -> None:
    shown = report()
    reader = Reader(render(shown, page(shown)))
    one = shown["llm"].metrics["recall@1"]
    low, high = one.interval or (0.0, 0.0)
    told = f"llm: {one.mean:.3f} ({low:.3f} to {high:.3f})".replace("0.", ".")
    assert any(told in words for words in reader.texts["desc"])


def test_flags_are_words_where_they_are_set() -> None:
    shown = report()
    text = " ".join(Reader(render(shown, page(shown))).texts["table"])
    assert "rich" in text
    assert "stopped early" not in text
    assert not re.search(r"\b(true|false)\b", text.lower())
    assert "420,000" in text


def cut(places: int) -> Report:
    """`llm` ranks some of 2,000 items, `popular` all; the right one is the eighth of both."""
    catalog = [f"i{n}" for n in range(2000)]
    names = [f"q{n}" for n in range(30)]
    lists = {
        name: [
            RankedList.of(Query(one, UserHistory("u", ()), items), range(len(items), 0, -1))
            for one in names
        ]
        for name, items in (
            ("popular", tuple(map(Item, catalog))),
            ("llm", tuple(map(Item, catalog[:places]))),
        )
    }
    cases = pl.DataFrame({"query": names, "user": names}).with_columns(
        items=pl.lit(["i0", "i0"]), relevant=pl.lit(["i7"]), seen=pl.lit([], pl.List(pl.String))
    )
    key = AnswerKey(cases, catalog)
    return evaluate(key, lists, ["recall@10", "auc"], sampled=False)


def test_auc_of_lists_that_are_cut_is_marked_as_a_lower_bound_and_not_compared() -> None:
    shown = cut(5)
    assert shown["llm"].bounds == {"auc"}
    assert shown["popular"].bounds == frozenset()
    assert shown.to_json()["rankers"]["llm"]["lower_bounds"] == ["auc"]
    assert shown.chance["auc"] is None
    assert shown.chance["recall@10"] is not None
    assert {one.metric for one in shown.comparisons} == {"recall@10"}
    text = render(shown, Page())
    reader = Reader(text)
    results = re.sub(r"\s+", " ", reader.texts["table"][0])
    assert "≥ .000" in results
    assert "≥ .996" not in results  # popular's lists are whole
    assert re.search(r"chance \.005–", results)
    assert "auc of every ranker" not in text
    assert 'class="name">auc' not in text
    assert "a lower bound" in text
    for words in (markdown(shown, Page()), "\n".join(" ".join(row) for row in shown.rows().rows)):
        assert "≥ .000" in words
    assert any("a lower bound" in note for note in shown.rows().notes)
    assert r"$\geq$ .000" in latex(shown)


def test_auc_of_whole_lists_is_no_lower_bound() -> None:
    shown = cut(2000)
    assert not shown.bounds
    assert shown.chance["auc"] == pytest.approx(0.5)
    text = render(shown, Page())
    assert "auc of every ranker" in text
    assert "≥" not in text + markdown(shown, Page()) + latex(shown)
    assert "1,999" not in text
    assert "2,000" in text


def test_the_latex_table_tells_what_its_reader_must_know() -> None:
    below = latex(report()).partition("\\end{tabular}")[2]
    assert "Candidates are sampled (5 a query)" in below
    assert below.index("KDD 2020") < below.index("\\end{table}")
    assert "sampled" not in latex(report(sampled=False))
