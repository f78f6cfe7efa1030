"""Writes `report.html`: one file that needs no network, no script and no other file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import jinja2

from trsr.evaluate.charts import calibration_chart, dot_chart, line_chart
from trsr.evaluate.cost_chart import brief_count, brief_seconds, seconds_chart, tokens_chart
from trsr.evaluate.costs import RankerCost
from trsr.evaluate.length_chart import length_chart
from trsr.evaluate.metrics import USUAL, parse_metric
from trsr.evaluate.page import Page
from trsr.evaluate.report import Estimate, Report
from trsr.evaluate.summaries import SUMMARY_TEXTS, summary_rows
from trsr.evaluate.table import NOTHING, best_mean, decimals, number, share

LONGEST = 320
"""Characters of one item's or summary's text; the rest is cut, and marked as cut."""

# C0 controls but tab and line ends, and lone surrogates: none may stand in an HTML file.
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class _Card:
    """One of the figures at the top: the main ranker's."""

    metric: str
    meaning: str
    mean: str
    interval: str
    chance: str


@dataclass(frozen=True, slots=True)
class _Cost:
    """A row of the table of costs, in words."""

    ranker: str
    quality: str
    seconds: str
    tokens: str
    preparing: str
    stored: str


def write_html(report: Report, path: Path, page: Page | None = None) -> None:
    """Writes the page. Texts in it are data: nothing in them becomes markup.

    Args:
        report: The numbers.
        path: The file to write.
        page: What to show beside them.
    """
    text = render(report, page or Page())
    path.write_text(_FORBIDDEN.sub("\ufffd", text), "utf-8")


def render(report: Report, page: Page) -> str:
    """The page as text."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("trsr.evaluate"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "amount": amount,
        "clip": clip,
        "decimals": decimals,
        "duration": duration,
        "interval": interval,
        "number": number,
        "share": share,
    }
    shown = headline_metrics(report)
    metric = USUAL if USUAL in report.metrics else next(iter(shown), "")
    costs = page.costs if metric else ()
    lengths = [length_chart(report, name, page.groups) for name in shown]
    plots = [draw(report, metric, costs) for draw in (seconds_chart, tokens_chart) if costs]
    charts = [dot_chart(report, name) for name in shown]
    calibrations = [calibration_chart(one) for one in page.calibrations]
    curves = [line_chart("Training loss", page.curve), line_chart("Validation", page.validation)]
    return environment.get_template("report.html").render(
        report=report,
        page=page,
        cards=[_card(report, name) for name in shown],
        charts=[chart for chart in charts if chart],
        length_charts=[chart for chart in lengths if chart],
        calibrations=[chart for chart in calibrations if chart],
        curves=[chart for chart in curves if chart],
        cost_metric=metric,
        cost_charts=[chart for chart in plots if chart],
        costs=[_cost(report, metric, one) for one in costs],
        unknown_costs=[one.ranker for one in costs if one.queries and not one.known],
        best={name: best_mean(report, name) for name in report.metrics},
        summary_rows=summary_rows(page.summaries) if page.summaries else [],
        summary_texts=SUMMARY_TEXTS,
        settings=sections(page.settings),
    )


def headline_metrics(report: Report) -> list[str]:
    """One metric of each name, with its widest cut-off; four at most."""
    widest: dict[str, str] = {}
    for text in sorted(report.metrics, key=lambda text: parse_metric(text).k or 0):
        widest[parse_metric(text).name] = text
    return [text for text in report.metrics if text in widest.values()][:4]


def sections(settings: Mapping[str, object]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Settings as (section, [(key, value)]); those outside a section come first."""
    loose = [(key, plain(one)) for key, one in settings.items() if not isinstance(one, Mapping)]
    found = [("", loose)] if loose else []
    for name, table in settings.items():
        if isinstance(table, Mapping) and table:
            found.append((name, list(_flat(table))))
    return found


def _flat(table: Mapping[str, object], prefix: str = "") -> Iterable[tuple[str, str]]:
    for key, value in table.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", plain(value)


def plain(value: object) -> str:
    """A setting's value, exactly."""
    if value is None or value == "":
        return NOTHING
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return ", ".join(plain(one) for one in value) or NOTHING
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {plain(one)}" for key, one in value.items()) or NOTHING
    return str(value)


def amount(value: object) -> str:
    """A count for reading: thousands set apart, long fractions cut."""
    if isinstance(value, bool):
        return plain(value)
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return plain(value)


def clip(text: str, longest: int = LONGEST) -> str:
    """Text cut at a length, with an ellipsis where it was cut."""
    return text if len(text) <= longest else text[: longest - 1].rstrip() + "…"


def duration(seconds: float | None) -> str:
    """`0.4 s`, `3 min 20 s`, `1 h 5 min`."""
    if seconds is None:
        return NOTHING
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def interval(estimate: Estimate) -> str:
    """`.404 to .516`."""
    ends = estimate.interval
    return f"{decimals(ends[0])} to {decimals(ends[1])}" if ends else NOTHING


def _card(report: Report, metric: str) -> _Card:
    estimate = report[report.main].metrics[metric]
    return _Card(
        metric,
        parse_metric(metric).meaning,
        decimals(estimate.mean),
        interval(estimate),
        decimals(report.chance[metric]),
    )


def _cost(report: Report, metric: str, one: RankerCost) -> _Cost:
    return _Cost(
        one.ranker,
        number(report[one.ranker].metrics[metric]),
        brief_seconds(one.seconds_a_query),
        brief_count(one.tokens_a_query),
        brief_seconds(one.preparing) if one.preparing < 60 else duration(one.preparing),
        share(one.from_store / one.prompts) if one.prompts else NOTHING,
    )
