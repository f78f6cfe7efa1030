"""Quality by the length of the history: the drawing's geometry; a template makes the SVG."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from trsr.evaluate.charts import Axis, Tick
from trsr.evaluate.groups import HistoryGroup
from trsr.evaluate.report import Report
from trsr.evaluate.table import decimals

LONGEST = 18
"""Characters of a ranker's name beside its line."""

_LETTER = 7.2
_ROW = 15.0  # from one name to the next


@dataclass(frozen=True, slots=True)
class Course:
    """A ranker's means, one for each group of lengths.

    Attributes:
        ranker: Its name.
        main: Whether the report is about it.
        line: Points as `polyline` takes them.
        dots: (x, mean, low, high), `low` and `high` being the ends of the 95 % interval.
        label_y: The name's base line.
    """

    ranker: str
    main: bool
    line: str
    dots: tuple[tuple[float, float, float, float], ...]
    label_y: float


@dataclass(frozen=True, slots=True)
class LengthChart:
    """Groups of history lengths along, shortest first; a metric up; a line for each ranker.

    All numbers are SVG units; names stand from `names` on.
    """

    metric: str
    width: float
    height: float
    left: float
    right: float
    names: float
    base: float
    courses: tuple[Course, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    summary: str


def length_chart(report: Report, metric: str, groups: Sequence[HistoryGroup]) -> LengthChart | None:
    """Draws a metric by length of history; None for fewer than two groups."""
    rankers = [scores.ranker for scores in report.rankers]
    means = {name: [group.means[name, metric] for group in groups] for name in rankers}
    if len(groups) < 2 or any(one.mean is None for row in means.values() for one in row):
        return None
    width, left, top = 460.0, 44.0, 14.0
    base = max(220.0, top + _ROW * len(rankers))
    right = width - 16 - _LETTER * min(max(map(len, rankers)), LONGEST)
    step = (right - left) / len(groups)
    xs = [round(left + step * (place + 0.5), 2) for place in range(len(groups))]
    values = {
        name: [(one.mean or 0.0, *_ends(one.mean, one.low, one.high)) for one in row]
        for name, row in means.items()
    }
    # a line's dots show the mean; only the main one has its interval drawn
    shown = [v for name, row in values.items() for one in row for v in one[: _drawn(name, report)]]
    up = Axis(shown, base, top, unit=True)
    last = {name: up(row[-1][0]) for name, row in values.items()}
    lines = dict(_spread(last, top, base))
    courses = tuple(
        Course(
            name,
            name == report.main,
            " ".join(f"{x},{up(mean)}" for x, (mean, *_) in zip(xs, row, strict=True)),
            tuple((x, *map(up, one)) for x, one in zip(xs, row, strict=True)),  # type: ignore[misc]
            lines[name],
        )
        for name, row in values.items()
    )
    return LengthChart(
        metric,
        width,
        base + 40,
        left,
        right,
        right + 6,
        base,
        tuple(sorted(courses, key=lambda one: one.main)),
        tuple(Tick(x, group.name) for x, group in zip(xs, groups, strict=True)),
        up.ticks,
        "; ".join(
            f"{name}: "
            + ", ".join(
                f"{decimals(one.mean)} of {group.name}"
                for one, group in zip(row, groups, strict=True)
            )
            for name, row in means.items()
        ),
    )


def _drawn(name: str, report: Report) -> int:
    return 3 if name == report.main else 1


def _ends(mean: float | None, low: float | None, high: float | None) -> tuple[float, float]:
    middle = mean or 0.0
    return (middle if low is None else low, middle if high is None else high)


def _spread(at: dict[str, float], top: float, base: float) -> Iterator[tuple[str, float]]:
    """Each name's line: as near its course's end as leaves room for all, highest first."""
    order = sorted(at, key=lambda name: at[name])
    places: list[float] = []
    for name in order:
        above = places[-1] + _ROW if places else top
        places.append(max(at[name], above))
    below = base
    for place in reversed(range(len(places))):
        places[place] = min(places[place], below)
        below = places[place] - _ROW
    yield from ((name, round(y + 4.5, 2)) for name, y in zip(order, places, strict=True))
