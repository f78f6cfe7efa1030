"""The geometry of the report's drawings; a template turns it into SVG."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from trsr.metrics.report import Report, decimals, interval_text

_POINTS = 400  # most points of a drawn line
WIDTH = 400.0
"""SVG units across a drawing: near what a phone has room for, so that words are read there too."""

LONGEST = 18
"""Letters of a ranker's name in a drawing; longer ones are cut."""

_PADDING = 0.04  # air at both ends of an axis, as a share of it


@dataclass(frozen=True, slots=True)
class Tick:
    """A mark of an axis: where, and its text."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Dot:
    """A ranker's mean and interval.

    Attributes:
        ranker: Its name.
        main: Whether the report is about it.
        y: Its line, in pixels.
        x: The mean, in percent of the drawing's width.
        low: Where the 95 % interval begins; `x` where there is none.
        high: Where it ends.
    """

    ranker: str
    main: bool
    y: float
    x: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class DotChart:
    """Rankers below each other, one metric along.

    The drawing is as wide as there is room: what lies along is in percent of its width, what lies
    down in pixels, so that words keep their size on a phone. Names stand left of it.

    Attributes:
        metric: What is drawn.
        letters: Room for names, in letters.
        height: With the marks below.
        base: Where the axis lies.
        dots: A ranker each.
        ticks: The axis's marks.
        chance: Where random orders stand.
        summary: All of it in words.
    """

    metric: str
    letters: int
    height: float
    base: float
    dots: tuple[Dot, ...]
    ticks: tuple[Tick, ...]
    chance: float
    summary: str


@dataclass(frozen=True, slots=True)
class LineChart:
    """A number at growing steps.

    All numbers are SVG units; `raw` and `smooth` are points as `polyline` takes them, `smooth`
    empty where the raw line is short. `first` and `last` are the ends in words.
    """

    title: str
    width: float
    height: float
    left: float
    right: float
    base: float
    raw: str
    smooth: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    summary: str


def dot_chart(report: Report, metric: str) -> DotChart | None:
    """Draws one metric of all rankers; None where there is nothing to draw, or a lower bound."""
    chance = report.chance[metric]
    found = [(one, one.metrics[metric]) for one in report.rankers]
    means = [estimate.mean for _, estimate in found if estimate.mean is not None]
    if chance is None or not means:
        return None
    row = 30.0
    base = 12 + row * len(found)
    ends = [end for _, estimate in found for end in (estimate.interval or ())]
    axis = Axis([*means, *ends, chance], 0, 100, unit=True)
    dots = []
    for place, (scores, estimate) in enumerate(found):
        mean = estimate.mean or 0.0
        low, high = estimate.interval or (mean, mean)
        y = 12 + row * (place + 0.5)
        main = scores.ranker == report.main
        dots.append(Dot(scores.ranker, main, y, axis(mean), axis(low), axis(high)))
    words = [f"{one.ranker}: {interval_text(estimate)}" for one, estimate in found]
    return DotChart(
        metric,
        letters([one.ranker for one in report.rankers]),
        base + 30,
        base,
        tuple(dots),
        axis.ticks,
        axis(chance),
        "; ".join([*words, f"chance: {decimals(chance)}"]),
    )


def letters(names: Sequence[str]) -> int:
    """The room that the longest of the names needs once it is cut."""
    return min(LONGEST, max(map(len, names)))


def line_chart(title: str, points: Sequence[tuple[int, float]]) -> LineChart | None:
    """Draws a curve; None where no point is a finite number.

    Long curves are drawn by the means of equal runs of steps, and with a running mean over them.
    """
    finite = [(float(step), value) for step, value in points if math.isfinite(value)]
    if not finite:
        return None
    run = math.ceil(len(finite) / _POINTS)
    drawn = [_mean_point(finite[at : at + run]) for at in range(0, len(finite), run)]
    width, left, base = WIDTH, 44.0, 156.0
    along = Axis([step for step, _ in drawn], left, width - 16, integers=True)
    up = Axis([value for _, value in drawn], base, 14)
    smooth = _running_mean(drawn) if len(drawn) >= 20 else []
    (first_step, first), (last_step, last) = finite[0], finite[-1]
    return LineChart(
        title,
        width,
        base + 38,
        left,
        width - 16,
        base,
        _line(drawn, along, up),
        _line(smooth, along, up),
        along.ticks,
        up.ticks,
        f"{title}: {decimals(first)} at step {first_step:.0f}, {decimals(last)} at step "
        f"{last_step:.0f}",
    )


class Axis:
    """Maps values to SVG units, and marks round values.

    With `integers` it marks these alone; with `unit` values lie between 0 and 1, and it marks
    nothing beyond.
    """

    def __init__(
        self,
        values: Sequence[float],
        start: float,
        end: float,
        *,
        integers: bool = False,
        unit: bool = False,
    ) -> None:
        low, high = min(values), max(values)
        if high - low < 1e-9 * max(1.0, abs(high)):
            low, high = low - 0.5, high + 0.5
        air = _PADDING * (high - low)
        self._low, self._high = low - air, high + air
        self._start, self._end = start, end
        step = round_step((high - low) / 5)
        step = max(step, 1.0) if integers else step
        places = max(0, -math.floor(math.log10(step) + 1e-9))
        first = math.ceil(self._low / step - 1e-9)
        self.ticks = tuple(
            Tick(self(k * step), f"{k * step:,.{places}f}")
            for k in itertools.takewhile(
                lambda k: k * step <= self._high + 1e-12, itertools.count(first)
            )
            if not unit or -1e-12 <= k * step <= 1 + 1e-12
        )

    def __call__(self, value: float) -> float:
        """Where a value stands."""
        share = (value - self._low) / (self._high - self._low)
        return round(self._start + share * (self._end - self._start), 2)


def round_step(step: float) -> float:
    """The next of 1, 2, 5 × a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(k * power for k in (1, 2, 5, 10) if k * power >= step * (1 - 1e-9))


def _mean_point(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    steps, values = zip(*points, strict=True)
    return sum(steps) / len(steps), sum(values) / len(values)


def _running_mean(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Each value averaged with its neighbours, a tenth of the curve wide."""
    half = max(1, len(points) // 20)
    smoothed = []
    for place, (step, _) in enumerate(points):
        near = points[max(0, place - half) : place + half + 1]
        smoothed.append((step, sum(value for _, value in near) / len(near)))
    return smoothed


def _line(points: Sequence[tuple[float, float]], along: Axis, up: Axis) -> str:
    return " ".join(f"{along(step)},{up(value)}" for step, value in points)
