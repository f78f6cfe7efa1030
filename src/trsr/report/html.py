"""Writes `report.html`: one file that needs no network, no script and no other file."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from pathlib import Path

import jinja2

from trsr.metrics.metrics import parse_metric
from trsr.metrics.report import (
    BOUND,
    NOTHING,
    Estimate,
    Report,
    Scores,
    about,
    best_mean,
    decimals,
    difference_rows,
    differences_note,
    least,
    number,
    share,
)
from trsr.report.charts import dot_chart, line_chart
from trsr.report.costs import COSTS, cost_metric, cost_rows, costs_note, duration, headline_metrics
from trsr.report.page import Page
from trsr.report.words import count_words, setting_rows
from trsr.storage import files

LONGEST = 320
"""Characters of one item's or summary's text; the rest is cut, and marked as cut."""

# C0 controls but tab and line ends, and lone surrogates: none may stand in an HTML file.
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class _Card:
    """One of the figures at the top: those of the ranker with the highest mean."""

    metric: str
    meaning: str
    mean: str
    interval: str
    chance: str


def write_html(report: Report, path: Path, page: Page | None = None) -> None:
    """Writes the page. Texts in it are data: nothing in them becomes markup."""
    write_page(render(report, page or Page()), path)


def write_page(text: str, path: Path) -> None:
    """Writes a page, without characters that may not stand in one."""
    files.write_text(path, _FORBIDDEN.sub("\ufffd", text))


@functools.cache  # which keeps the templates: compiling them takes longer than all else here
def pages() -> jinja2.Environment:
    """The templates of pages; what they show is text, and never becomes markup."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("trsr.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "clip": clip,
        "decimals": decimals,
        "duration": duration,
        "interval": interval,
        "least": least,
        "number": number,
        "share": share,
    }
    return environment


def render(report: Report, page: Page) -> str:
    """The page as text."""
    template = pages().get_template("report.html")
    shown = headline_metrics(report)
    metric = cost_metric(report)
    best = best_ranker(report, metric)
    costs = page.costs if metric else ()
    charts = [dot_chart(report, name) for name in shown]
    curves = [line_chart("Training loss", page.curve), line_chart(page.validated, page.validation)]
    return template.render(
        report=report,
        page=page,
        cards=[_card(best, report.chance[name], name) for name in shown],
        headline=best.ranker,
        charts=[chart for chart in charts if chart],
        curves=[chart for chart in curves if chart],
        cost_metric=metric,
        cost_heads=COSTS,
        cost_rows=cost_rows(report, metric, costs),
        costs_said=costs_note(costs),
        differences=difference_rows(report),
        about=about(report),
        differences_said=differences_note(report),
        stages=[(one, count_words(one.counts)) for one in page.stages],
        planned=any(one.planned for one in page.stages),
        best={name: best_mean(report, name) for name in report.metrics},
        settings=setting_rows(page.settings, page.changed),
        bound=BOUND,
    )


def clip(text: str, longest: int = LONGEST) -> str:
    """Text cut at a length, with an ellipsis where it was cut."""
    return text if len(text) <= longest else text[: longest - 1].rstrip() + "…"


def interval(estimate: Estimate) -> str:
    """`.404 to .516`."""
    ends = estimate.interval
    return f"{decimals(ends[0])} to {decimals(ends[1])}" if ends else NOTHING


def best_ranker(report: Report, metric: str) -> Scores:
    """The ranker with the highest mean; of equals the main one, as without a metric."""
    main = report[report.main]
    if not metric:
        return main
    return max((main, *report.rankers), key=lambda one: one.metrics[metric].mean or 0.0)


def _card(best: Scores, chance: float | None, metric: str) -> _Card:
    estimate = best.metrics[metric]
    return _Card(
        metric,
        parse_metric(metric).meaning,
        decimals(estimate.mean),
        interval(estimate),
        decimals(chance),
    )
