"""Quality against cost: the drawing's geometry, and costs in words; a template makes the SVG."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from trsr.metrics.report import Report
from trsr.metrics.tables import NOTHING, interval_text
from trsr.report.charts import LONGEST, WIDTH, Axis, Tick, round_step
from trsr.report.costs import RankerCost

WIDE = 20.0
"""From this ratio of the largest to the smallest cost on the axis is logarithmic."""

_SMALLEST = 1e-9  # seconds: what a clock cannot tell from nothing must still have a logarithm
_LETTER = 7.4
_GAP = 3.0  # beside a name
_AIR = 0.06
_LINES = (0.0, -13.0, 13.0, -27.0, 27.0, -41.0, 41.0)  # how far below its point a name may stand


@dataclass(frozen=True, slots=True)
class Point:
    """A ranker's cost and mean.

    Attributes:
        ranker: Its name.
        main: Whether the report is about it.
        x: The cost.
        y: The mean.
        low: Where the 95 % interval begins; `y` where there is none.
        high: Where it ends.
        label_x: Where its name stands.
        label_y: The name's base line.
        anchor: start, middle or end, as SVG has it.
        leader: Whether a line is to lead from the point to its name.
    """

    ranker: str
    main: bool
    x: float
    y: float
    low: float
    high: float
    label_x: float
    label_y: float
    anchor: str
    leader: bool


@dataclass(frozen=True, slots=True)
class CostChart:
    """A cost of all rankers along, a metric up.

    All numbers are SVG units; `chance` is where random orders stand, None where that is not known.
    """

    metric: str
    cost: str
    log: bool
    width: float
    height: float
    left: float
    right: float
    top: float
    base: float
    points: tuple[Point, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    chance: float | None
    summary: str


def seconds_chart(report: Report, metric: str, costs: Sequence[RankerCost]) -> CostChart | None:
    """Draws a metric against seconds a query; None where there is nothing to draw."""
    found = {one.ranker: one.seconds_a_query for one in costs}
    return _chart(report, metric, "seconds a query", found, brief_seconds)


def tokens_chart(report: Report, metric: str, costs: Sequence[RankerCost]) -> CostChart | None:
    """Draws a metric against tokens a query, of rankers with a language model; None for none."""
    found = {one.ranker: one.tokens_a_query for one in costs}
    return _chart(report, metric, "tokens a query", found, brief_count)


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


def _chart(
    report: Report,
    metric: str,
    cost: str,
    costs: dict[str, float | None],
    in_words: Callable[[float | None], str],
) -> CostChart | None:
    drawn = [
        (scores.ranker, max(spent, _SMALLEST), estimate.mean, estimate)
        for scores in report.rankers
        for estimate in [scores.metrics[metric]]
        for spent in [costs.get(scores.ranker)]
        if spent is not None and estimate.mean is not None
    ]
    if not drawn:
        return None
    width, left, top, base = WIDTH, 44.0, 14.0, 230.0
    chance = report.chance[metric]
    spents = [spent for _, spent, _, _ in drawn]
    log = max(spents) >= WIDE * min(spents)
    along: Callable[[float], float]
    if log:
        along = logarithmic = LogAxis(spents, left, width - 16, in_words)
        ticks = logarithmic.ticks
    else:
        along = Axis([0, *spents], left, width - 16)
        ticks = tuple(_round_ticks(along, max(spents), in_words))
    heights = [mean for _, _, mean, _ in drawn]
    heights += [end for *_, estimate in drawn for end in estimate.interval or ()]
    up = Axis(heights if chance is None else [*heights, chance], base, top, unit=True)
    spots = [
        (name, along(spent), up(mean), up(ends[0]), up(ends[1]))
        for name, spent, mean, estimate in drawn
        for ends in [estimate.interval or (mean, mean)]
    ]
    labels = _labels([(name, x, y) for name, x, y, _, _ in spots], left, width)
    return CostChart(
        metric,
        cost,
        log,
        width,
        base + 40,
        left,
        width - 16,
        top,
        base,
        tuple(
            Point(name, name == report.main, x, y, low, high, *label)
            for (name, x, y, low, high), label in zip(spots, labels, strict=True)
        ),
        ticks,
        up.ticks,
        None if chance is None else up(chance),
        "; ".join(
            f"{name}: {interval_text(estimate)} at {in_words(spent)}"
            for name, spent, _, estimate in drawn
        ),
    )


def _round_ticks(
    axis: Callable[[float], float], most: float, in_words: Callable[[float | None], str]
) -> Iterator[Tick]:
    """A linear axis's marks, in the unit of its cost."""
    step = round_step(most / 4)
    for k in itertools.count():
        if k * step > most * (1 + _AIR / 2):
            return
        yield Tick(axis(k * step), in_words(k * step) if k else "0")


class LogAxis:
    """Maps values to SVG units by their logarithm, and marks powers of ten."""

    def __init__(
        self,
        values: Sequence[float],
        start: float,
        end: float,
        in_words: Callable[[float | None], str],
    ) -> None:
        low, high = math.log10(min(values)), math.log10(max(values))
        air = _AIR * (high - low)
        self._low, self._high = low - air, high + air
        self._start, self._end = start, end
        every = math.ceil((high - low) / 5)
        powers = range(math.ceil(self._low), math.floor(self._high) + 1, max(1, every))
        self.ticks = tuple(Tick(self(10.0**power), in_words(10.0**power)) for power in powers)

    def __call__(self, value: float) -> float:
        """Where a value stands."""
        share = (math.log10(value) - self._low) / (self._high - self._low)
        return round(self._start + share * (self._end - self._start), 2)


_Box = tuple[float, float, float, float]


def _labels(
    spots: Sequence[tuple[str, float, float]], left: float, right: float
) -> Iterator[tuple[float, float, str, bool]]:
    """Where each name stands: next to its point, or as little above or below as hides nothing.

    A name that is not on its point's line needs a leader.
    """
    dots: list[_Box] = [(x - 6, y - 6, x + 6, y + 6) for _, x, y in spots]
    taken: list[_Box] = []
    for place, (name, x, y) in enumerate(spots):
        size = _LETTER * min(len(name), LONGEST)
        others = [*taken, *(box for n, box in enumerate(dots) if n != place)]
        hidden: dict[tuple[float, float, str, bool, _Box], float] = {}
        for down, (side, anchor) in itertools.product(_LINES, ((1, "start"), (-1, "end"))):
            near = x + side * (9 if not down else 7)
            far = near + side * size
            # Names on one line would read as one if there were no gap between them.
            box = (min(near, far) - _GAP, y + down - 7, max(near, far) + _GAP, y + down + 7)
            outside = max(0.0, left - box[0]) + max(0.0, box[2] - right)
            cost = sum(_overlap(box, other) for other in others) + 100 * outside + abs(down) / 10
            hidden[near, y + down + 4.5, anchor, down != 0, box] = cost
        at, line, anchor, leader, box = min(hidden, key=hidden.__getitem__)
        taken.append(box)
        yield round(at, 2), round(line, 2), anchor, leader


def _overlap(one: _Box, other: _Box) -> float:
    """The area that two boxes share."""
    across = min(one[2], other[2]) - max(one[0], other[0])
    down = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, across) * max(0.0, down)
