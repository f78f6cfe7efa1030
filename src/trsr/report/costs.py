"""What each ranker's lists took: seconds, and tokens where a language model made them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import jinja2

from trsr.errors import StoreError
from trsr.metrics.metrics import USUAL, parse_metric
from trsr.metrics.report import NOTHING, Report, least, number, share
from trsr.storage import files

MOST_KNOWN = 0.1
"""Above this share of stored answers without a record, what computing all would take is not known.
Up to this share, a ranker's cost is shown as it was measured."""

UNRECORDED = (
    "What each ranker took was not recorded with these rankings: it is recorded when `trsr run` "
    "makes them."
)


@dataclass(frozen=True, slots=True)
class RankerCost:
    """What one ranker took for all queries.

    Attributes:
        ranker: Its name.
        queries: How many it ranked.
        preparing: Seconds before the first query: training, fitting, tuning, proposals.
        seconds: Of ranking, from reading the queries to the lists.
        prompts: Put to a language model while ranking; 0 for a ranker without one.
        from_store: How many of them were answered by the response cache, from before it ranked.
        tokens: Of the others, each prompt in full, also where it was asked before.
        cached_seconds: What the answers from the store took when they were computed, each once.
        cached_tokens: Likewise.
        cached_unknown: Of how many of them that is not known.
    """

    ranker: str
    queries: int
    preparing: float
    seconds: float
    prompts: int = 0
    from_store: int = 0
    tokens: int = 0
    cached_seconds: float = 0.0
    cached_tokens: int = 0
    cached_unknown: int = 0

    def with_parts(self, members: Sequence[RankerCost], training: float) -> RankerCost:
        """With what the rankers that it asks took, where it found their answers made."""
        made = sum(one.seconds + one.cached_seconds for one in members)
        return replace(
            self,
            preparing=round(self.preparing + sum(one.preparing for one in members) + training, 3),
            cached_seconds=max(self.cached_seconds, round(made - self.seconds, 6)),
        )

    @property
    def known(self) -> bool:
        """Whether there are queries, and it is known what all but a few answers took."""
        return self.queries > 0 and self.cached_unknown <= MOST_KNOWN * self.prompts

    @property
    def seconds_a_query(self) -> float | None:
        """With what stored answers took; None where it is not known."""
        total = self.seconds + self.cached_seconds
        return total / self.queries if self.known else None

    @property
    def tokens_a_query(self) -> float | None:
        """With those of stored answers; None where it is not known, or no model was asked."""
        total = self.tokens + self.cached_tokens
        return total / self.queries if self.known and self.prompts else None

    def to_json(self) -> dict[str, Any]:
        """Plain values, without the name."""
        values = asdict(self)
        values.pop("ranker")
        return values


def read_costs(values: Mapping[str, Mapping[str, Any]] | None) -> tuple[RankerCost, ...]:
    """Costs by ranker, as `to_json` gives them; empty where there are none.

    Raises:
        StoreError: If they are not as `to_json` gives them.
    """
    try:
        return tuple(RankerCost(name, **one) for name, one in (values or {}).items())
    except (TypeError, AttributeError) as error:
        raise StoreError(
            f"the recorded costs of rankers are not as trsr writes them ({error}); give `trsr "
            "run` again"
        ) from error


def brief_seconds(seconds: float | None) -> str:
    """`3.1 µs`, `20 ms`, `1.85 s`: short times, to three digits."""
    if seconds is None:
        return NOTHING
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{_three(seconds / size)} {unit}"
    return f"{_three(seconds / 1e-6)} µs"


def brief_count(number: float | None) -> str:
    """`10,500`: a count without fractions."""
    return NOTHING if number is None else f"{number:,.0f}"


def _three(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


@dataclass(frozen=True, slots=True)
class CostRow:
    """A row of the table of costs."""

    ranker: str
    quality: str
    seconds: str
    tokens: str
    preparing: str
    stored: str

    @property
    def cells(self) -> tuple[str, ...]:
        """The row, as `COSTS` names its cells after the ranker and the metric."""
        return self.seconds, self.tokens, self.preparing, self.stored


COSTS = ("Time a query", "Tokens a query", "Before the first query", "Answers from the store")
"""The columns of costs."""


def cost_metric(report: Report) -> str:
    """The metric that costs are set against; empty where there is none."""
    if USUAL in report.metrics:
        return USUAL
    return next(iter([*headline_metrics(report), *report.metrics]), "")


def cost_rows(report: Report, metric: str, costs: Sequence[RankerCost]) -> list[CostRow]:
    """What each ranker took, and its mean of a metric."""
    return [
        CostRow(
            one.ranker,
            least(report[one.ranker].bounds, metric) + number(report[one.ranker].metrics[metric]),
            brief_seconds(one.seconds_a_query),
            brief_count(one.tokens_a_query),
            brief_seconds(one.preparing) if one.preparing < 60 else duration(one.preparing),
            share(one.from_store / one.prompts) if one.prompts else NOTHING,
        )
        for one in costs
    ]


def costs_note(costs: Sequence[RankerCost]) -> str:
    """What to know of the costs: what was computed before, and of which rankers it is not known."""
    said = [
        "“Before the first query” is training, fitting and tuning, of the members of a blend too."
    ]
    before = [one.ranker for one in costs if one.known and one.from_store and one.cached_seconds]
    if before:
        said.append(
            f"Of {', '.join(before)} answers were in the store: they count with what they took "
            "when they were computed, by another ranker or in another run, perhaps on another "
            "machine."
        )
    unknown = [one.ranker for one in costs if one.queries and not one.known]
    if unknown:
        said.append(
            f"Of {', '.join(unknown)} many answers were in the store, which does not know what "
            "they took."
        )
    return " ".join(said)


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
        across = list(zip(*lines, strict=True))
        # the more there are of either, the more lines; across, their names would be cut
        header, *rows = across if len(lines) <= max(len(across), 1) else lines
        notes = [*map(str, table["notes"])]
    except OSError as error:
        raise StoreError(f"{path}: no report; give `trsr run {folder}` first") from error
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{path}: not a report that trsr wrote; delete it, and give `trsr run {folder}`"
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


def duration(seconds: float | None) -> str:
    """`0.4 s`, `3 min 20 s`, `1 h 5 min`."""
    if seconds is None:
        return NOTHING
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def headline_metrics(report: Report) -> list[str]:
    """One metric of each name, with its widest cut-off; four at most, and no lower bounds."""
    widest: dict[str, str] = {}
    known = [text for text in report.metrics if parse_metric(text).family.accuracy]
    for text in sorted(known, key=lambda text: parse_metric(text).k or 0):
        widest[parse_metric(text).name] = text
    shown = [text for text in report.metrics if text in widest.values()]
    return [text for text in shown if text not in report.bounds][:4]
