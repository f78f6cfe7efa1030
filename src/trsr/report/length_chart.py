"""Quality by the length of the history: the drawing's geometry; a template makes the SVG."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from trsr.metrics.groups import HistoryGroup
from trsr.metrics.report import Report
from trsr.metrics.significance import Difference
from trsr.metrics.tables import decimals
from trsr.report.charts import Axis, Tick, letters

MOST = 6
"""Rankers in one drawing: of more, no line can be followed to its name."""

CROWDED = 24
"""Letters of the groups' names that one row has room for on a phone."""

_ROW = 17.0  # from one name to the next


@dataclass(frozen=True, slots=True)
class Curve:
    """A ranker's means, one for each group of lengths.

    Attributes:
        ranker: Its name.
        main: Whether the report is about it.
        kind: How its line is dashed: another number, another way.
        dots: (x, mean, low, high), `low` and `high` being the ends of the 95 % interval.
        label_y: The name's base line.
    """

    ranker: str
    main: bool
    kind: int
    dots: tuple[tuple[float, float, float, float], ...]
    label_y: float

    @property
    def steps(self) -> Iterator[tuple[float, float, float, float]]:
        """(x, y, x, y) of the line from each dot to the next."""
        for before, after in itertools.pairwise(self.dots):
            yield (*before[:2], *after[:2])


@dataclass(frozen=True, slots=True)
class LengthChart:
    """Groups of history lengths along, shortest first; a metric up; a line for each ranker.

    As wide as there is room, like `DotChart`: percent along, pixels down. Names stand right of it.

    Attributes:
        metric: What is drawn.
        letters: Room for names, in letters.
        height: With the marks below.
        base: Where the axis lies.
        curves: A ranker each; the main one last, so that it lies above the others.
        x_ticks: The groups.
        rows: In how many rows their names stand.
        y_ticks: Marks of the metric.
        left_out: The rankers that are not drawn.
        summary: What is drawn, in words.
    """

    metric: str
    letters: int
    height: float
    base: float
    curves: tuple[Curve, ...]
    x_ticks: tuple[Tick, ...]
    rows: int
    y_ticks: tuple[Tick, ...]
    left_out: tuple[str, ...]
    summary: str


def length_chart(report: Report, metric: str, groups: Sequence[HistoryGroup]) -> LengthChart | None:
    """Draws a metric by length of history; None for fewer than two groups.

    Of more than `MOST` rankers the main one is drawn and those that are best in the metric.
    """
    names = _drawn(report, metric)
    means = {name: [group.means[name, metric] for group in groups] for name in names}
    if len(groups) < 2 or any(one.mean is None for row in means.values() for one in row):
        return None
    top, base = 14.0, 220.0
    xs = [round(100 * (place + 0.5) / len(groups), 2) for place in range(len(groups))]
    values = {name: [_ends(one) for one in row] for name, row in means.items()}
    # a line's dots show the mean; only the main one has its interval drawn
    shown = [
        end
        for name, row in values.items()
        for ends in row
        for end in (ends if name == report.main else ends[:1])
    ]
    up = Axis(shown, base, top, unit=True)
    lines = dict(_spread({name: up(row[-1][0]) for name, row in values.items()}, top, base))
    curves = tuple(
        Curve(
            name,
            name == report.main,
            kind,
            tuple((x, up(one[0]), up(one[1]), up(one[2])) for x, one in zip(xs, row, strict=True)),
            lines[name],
        )
        for kind, (name, row) in enumerate(values.items())
    )
    ticks = tuple(Tick(x, _brief(group.name)) for x, group in zip(xs, groups, strict=True))
    rows = min(3, math.ceil(len(ticks) * max(len(tick.text) for tick in ticks) / CROWDED))
    return LengthChart(
        metric,
        letters(names),
        base + 27 + 13 * rows,
        base,
        tuple(sorted(curves, key=lambda one: one.main)),
        ticks,
        rows,
        up.ticks,
        tuple(scores.ranker for scores in report.rankers if scores.ranker not in names),
        _summary(means, groups),
    )


def _drawn(report: Report, metric: str) -> list[str]:
    """The main ranker, then the others as far as there is room, best first."""
    means = {scores.ranker: scores.metrics[metric].mean or 0.0 for scores in report.rankers}
    others = [name for name in means if name != report.main]
    return [report.main, *sorted(others, key=lambda name: -means[name])[: MOST - 1]]


def _ends(one: Difference) -> tuple[float, float, float]:
    """A mean with the ends of its interval; the mean itself where there is none."""
    mean = one.mean or 0.0
    return mean, mean if one.low is None else one.low, mean if one.high is None else one.high


def _brief(name: str) -> str:
    """`7–21` for `7 to 21`: there is no room for more on a phone."""
    return name.replace(" to ", "–")


def _summary(means: Mapping[str, Sequence[Difference]], groups: Sequence[HistoryGroup]) -> str:
    return "; ".join(
        f"{name}: "
        + ", ".join(
            f"{decimals(one.mean)} of {group.name}" for one, group in zip(row, groups, strict=True)
        )
        for name, row in means.items()
    )


def _spread(at: dict[str, float], top: float, base: float) -> Iterator[tuple[str, float]]:
    """Each name's line: as near its curve's end as leaves room for all, highest first."""
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
