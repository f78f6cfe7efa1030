"""Text for other documents: `report.md`, a LaTeX table, and what Markdown pages share."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence

import jinja2

from trsr.metrics.report import (
    BOUND,
    DIFFERENCES,
    NOTHING,
    Estimate,
    Report,
    about,
    arrow,
    best_mean,
    decimals,
    difference_rows,
    differences_note,
    least,
    share,
)
from trsr.metrics.significance import BETTER, LEVEL, WORSE
from trsr.report.page import Page

FILES = (
    "Beside this file: `report.html` (also costs, drawings, settings and example users), "
    "`report.json` (all numbers), `per_query.parquet`, and `table.tex`."
)

TREC_FILES = (
    "For other tools: `run.RANKER.trec` and `qrels.trec`. In them blanks and % in ids are written "
    "as in URLs, and ties are broken by a made-up order, as the format asks: trsr counts a tie as "
    "its expected value, so other tools' values differ where there are ties. They also leave out "
    "queries without a result, which count as 0 here (`trec_eval -c`)."
)


def markdown(report: Report, page: Page) -> str:
    """The tables of the report as Markdown."""
    parts = [
        [f"# {_inline(page.title)}"],
        [_inline(page.subtitle)] if page.subtitle else [],
        _warnings(report),
        ["## Results", "", *_results(report)],
        [f"- {_inline(note)}" for note in report.rows().notes if note not in report.warnings],
        _differences(report),
        ["## Files", "", FILES, *(["", TREC_FILES] if page.trec else [])],
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


def _differences(report: Report) -> list[str]:
    if not report.comparisons:
        return []
    rows = [[_inline(ranker), *cells] for ranker, *cells in difference_rows(report)]
    said = f"{_inline(about(report))} {differences_note(report)}"
    lead = [f"## Differences to {_inline(report.main)}", "", said, ""]
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
        "% Written by trsr run; needs \\usepackage{booktabs}.",
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


_PATH = re.compile(r"(?<![\w.])(?:~|[A-Za-z]:\\|/)[^\s,;:'\"()]*[/\\][^\s,;:'\"()]*")


@functools.cache  # compiling one takes longer than what it is for
def template(package: str, name: str) -> jinja2.Template:
    """A Markdown template of a package; a name that it is not given is an error."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(package),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - Markdown
    )
    return environment.get_template(name)


def without_paths(text: str) -> str:
    """The text with an ellipsis for each path of this machine."""
    return _PATH.sub("…", text)


def cell(text: str) -> str:
    """A text as it may stand in a table's cell, without paths."""
    return without_paths(text).replace("|", "\\|")
