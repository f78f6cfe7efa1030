"""A finished run's figures, read back from `report.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

from trsr.errors import StoreError
from trsr.report.costs import brief_seconds, read_costs
from trsr.storage import files

_PAGE = jinja2.Environment(autoescape=True).from_string(
    """<table><thead><tr>{% for name in one.header %}<th>{{ name }}</th>{% endfor %}</tr></thead>
<tbody>{% for row in one.rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table>{% for note in one.notes %}<p>{{ note }}</p>{% endfor %}"""
)


@dataclass(frozen=True, slots=True)
class RunFigures:
    """A run's metrics, few rankers in columns; it shows itself in a notebook.

    Attributes:
        header: The columns' names.
        rows: A row a metric, or a row a ranker where there are many.
        notes: What to know about the figures.
    """

    header: list[str]
    rows: list[list[str]]
    notes: list[str]

    def __repr__(self) -> str:
        lines = [self.header, *self.rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        table = (
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in lines
        )
        return "\n".join((*table, *self.notes))

    def _repr_html_(self) -> str:
        return _PAGE.render(one=self)


def run_figures(folder: Path) -> RunFigures:
    """The figures of a finished run.

    Raises:
        StoreError: If the run has no report, or one that trsr did not write.
    """
    path = folder / "report.json"
    try:
        report = files.read_json(path)
        table = report["table"]
        lines: list[Sequence[object]] = [table["header"], *table["rows"]]
        if report.get("costs"):
            lines = _with_costs(lines, report["costs"])
        turned = list(zip(*lines, strict=True))
        # the more there are of either, the more lines; across, their names would be cut
        header, *rows = turned if len(lines) <= max(len(turned), 1) else lines
        notes = [*map(str, table["notes"])]
    except OSError as error:
        raise StoreError(f"{path}: no report; give `trsr evaluate {folder}` first") from error
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{path}: not a report that trsr wrote; delete it, and give `trsr evaluate {folder}`"
        ) from error
    return RunFigures(list(map(str, header)), [list(map(str, row)) for row in rows], notes)


def _with_costs(
    lines: Sequence[Sequence[object]], costs: Mapping[str, Mapping[str, object]]
) -> list[Sequence[object]]:
    """The table's lines with what each ranker takes: before its first query, and a query."""
    took = {
        one.ranker: (brief_seconds(one.preparing), brief_seconds(one.seconds_a_query))
        for one in read_costs(costs)
    }
    header, *rows = lines
    wider: list[Sequence[object]] = [[*header, "to prepare", "a query"]]
    return wider + [[*row, *took.get(str(row[0]), ("", ""))] for row in rows]
