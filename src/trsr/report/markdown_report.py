"""The report as text for other documents: `report.md`, and a LaTeX table."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from trsr.metrics.report import Estimate, Report
from trsr.metrics.significance import BETTER, LEVEL, WORSE
from trsr.metrics.tables import (
    BOUND,
    DIFFERENCES,
    NOTHING,
    arrow,
    best_mean,
    decimals,
    difference_rows,
    differences_note,
    least,
    share,
)
from trsr.report.costs import COSTS, cost_metric, cost_rows, costs_note
from trsr.report.page import Page, StageTime
from trsr.report.words import count_words, duration, setting_rows

FILES = (
    "Beside this file: `report.json` (all numbers), `report.html`, `per_query.parquet`, and "
    "`table.tex`."
)

TREC_FILES = (
    "For other tools: `run.RANKER.trec` and `qrels.trec`. In them blanks and % in ids are written "
    "as in URLs, and ties are broken by a made-up order, as the format asks: trsr counts a tie as "
    "its expected value, so other tools' values differ where there are ties. They also leave out "
    "queries without a result, which count as 0 here (`trec_eval -c`)."
)

HTML_ONLY = (
    "Drawings, and example users with what was read, written and ranked: `report.html` alone."
)


def markdown(report: Report, page: Page) -> str:
    """The report as Markdown, with what the page shows, but drawings and examples."""
    parts = [
        [f"# {_inline(page.title)}"],
        [_inline(page.subtitle)] if page.subtitle else [],
        _warnings(report),
        ["## Results", "", *_results(report)],
        [f"- {_inline(note)}" for note in report.rows().notes if note not in report.warnings],
        _differences(report),
        _costs(report, page),
        _stages(page.stages),
        _settings(page),
        ["## Files", "", HTML_ONLY, "", FILES, *(["", TREC_FILES] if page.trec else [])],
    ]
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def _warnings(report: Report) -> list[str]:
    if not report.warnings:
        return []
    said = [f"- {_inline(warning)}" for warning in report.warnings]
    return ["## Before you use these numbers", "", *said]


def _rows(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 0) -> Iterator[str]:
    """A table; its first column holds names, and the last `left` ones hold text too."""
    yield f"| {' | '.join(header)} |"
    yield f"| --- |{' ---: |' * (len(header) - 1 - left)}{' --- |' * left}"
    yield from (f"| {' | '.join(row)} |" for row in rows)


def _results(report: Report) -> Iterator[str]:
    rows = [
        [
            _inline(scores.ranker),
            *(_cell(report, scores.ranker, name, one) for name, one in scores.metrics.items()),
            share(scores.tied),
            str(scores.missing),
        ]
        for scores in report.rankers
    ]
    rows.append(["chance", *(decimals(mean) for mean in report.chance.values()), "", ""])
    yield from _rows(["ranker", *report.metrics, "tied", "missing"], rows)


def _cell(report: Report, ranker: str, metric: str, one: Estimate) -> str:
    text = least(report[ranker].bounds, metric) + decimals(one.mean)
    if one.mean is not None and one.mean == best_mean(report, metric):
        text = f"**{text}**"
    error = "" if one.se is None else f" ±{decimals(one.se)}"
    return text + error + arrow(report, ranker, metric)


def _costs(report: Report, page: Page) -> list[str]:
    if not page.costs:
        return ["## Costs", "", page.costs_note] if page.costs_note else []
    metric = cost_metric(report)
    rows = [
        [_inline(one.ranker), one.quality, *one.cells]
        for one in cost_rows(report, metric, page.costs)
    ]
    head = ["ranker", metric, *map(str.lower, COSTS)]
    said = _inline(costs_note(page.costs))
    return ["## Costs", "", said, "", *_rows(head, rows)]


def _stages(stages: Sequence[StageTime]) -> list[str]:
    if not stages:
        return []
    rows = [
        [
            _inline(stage.name),
            duration(stage.seconds),
            _inline("; ".join(f"{what} {many}".strip() for what, many in count_words(stage))),
        ]
        for stage in stages
    ]
    lead = "What each stage took and did; evaluate, which wrote this, stands in manifest.json."
    return ["## Time and counts", "", lead, "", *_rows(["stage", "time", "counts"], rows, left=1)]


def _settings(page: Page) -> list[str]:
    """Those that are no defaults one by one, the others in one paragraph."""
    rows = setting_rows(page.settings, page.changed)
    changed = [[_inline(one.name), _inline(one.value)] for one in rows if one.changed]
    others = "; ".join(f"{one.name} = {one.value}" for one in rows if not one.changed)
    made = "; ".join(f"{what} {which}" for what, which in page.made)
    parts = [
        ["Other than trsr's defaults:", "", *_rows(["setting", "value"], changed, left=1)],
        [f"At {'the defaults' if changed else 'their values'}: {_inline(others)}."],
        [f"Made with: {_inline(made)}."],
    ]
    kept = [part for part, found in zip(parts, (changed, others, made), strict=True) if found]
    return ["## Settings", *(line for part in kept for line in ("", *part))] if kept else []


def _differences(report: Report) -> list[str]:
    if not report.comparisons:
        return []
    rows = [[_inline(ranker), *cells] for ranker, *cells in difference_rows(report)]
    lead = [f"## Differences to {_inline(report.main)}", "", differences_note(report), ""]
    return [*lead, *_rows(("ranker", "metric", *DIFFERENCES), rows)]


def _inline(text: str) -> str:
    """Text that is no markup in Markdown."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(text.split()))


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{mark: f"\\{mark}" for mark in "&%$#_{}"},
    "≥": r"$\geq$",
    "±": r"$\pm$",
    "−": r"$-$",
    "<": r"$<$",
    ">": r"$>$",
}


def latex(report: Report) -> str:
    """The table of results for a paper, its caveats below; needs the package booktabs."""
    columns = "l" + "r" * len(report.metrics)
    head = " & ".join(["", *map(_tex, report.metrics)])
    rows = [
        " & ".join(
            [
                _tex(scores.ranker),
                *(_tex_cell(report, scores.ranker, n, one) for n, one in scores.metrics.items()),
            ]
        )
        for scores in report.rankers
    ]
    chance = " & ".join(["chance", *(_tex(decimals(mean)) for mean in report.chance.values())])
    queries = (
        "1 query" if report.queries == 1 else f"{report.queries:,} queries".replace(",", "{,}")
    )
    marks = (
        f" $\\uparrow$ $\\downarrow$: significantly higher or lower than {_tex(report.main)} "
        f"(paired randomization test, $p < {decimals(LEVEL, 2)}$ after Holm's correction for "
        f"{len(report.comparisons)} comparisons)."
        if report.comparisons
        else ""
    )
    lines = [
        "% Written by trsr evaluate; needs \\usepackage{booktabs}.",
        "\\begin{table}",
        "\\centering",
        f"\\caption{{Mean $\\pm$ standard error over {queries} ($\\pm 1.96$ "
        f"of them: 95\\,\\% interval); bold: highest mean.{marks}}}",
        f"\\begin{{tabular}}{{{columns}}}",
        "\\toprule",
        f"{head} \\\\",
        "\\midrule",
        *(f"{row} \\\\" for row in rows),
        "\\midrule",
        f"{chance} \\\\",
        "\\bottomrule",
        "\\end{tabular}",
        *_tex_notes(report),
        "\\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _tex_notes(report: Report) -> list[str]:
    """What a reader must know, below the table."""
    notes = [*([f"{BOUND}."] if report.bounds else []), *report.notes]
    if not notes:
        return []
    said = [f"{_tex(note)}\\par" for note in notes]
    return ["", "\\smallskip", "\\parbox{\\linewidth}{\\footnotesize\\raggedright", *said, "}"]


def _tex_cell(report: Report, ranker: str, metric: str, one: Estimate) -> str:
    if one.mean is None:
        return "--"
    text = decimals(one.mean)
    if one.mean == best_mean(report, metric):
        text = f"\\textbf{{{text}}}"
    error = "" if one.se is None else f" {{\\scriptsize $\\pm${decimals(one.se)}}}"
    arrows = {BETTER: " $\\uparrow$", WORSE: " $\\downarrow$"}
    bound = "$\\geq$ " if metric in report[ranker].bounds else ""
    return bound + text + error + arrows.get(arrow(report, ranker, metric).strip(), "")


def _tex(text: str) -> str:
    escaped = "".join(_LATEX.get(letter, letter) for letter in " ".join(text.split()))
    return escaped.replace(NOTHING, "--")
