"""What each ranker's lists took: seconds, and tokens where a language model made them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from trsr.metrics.metrics import USUAL
from trsr.metrics.report import Report
from trsr.metrics.tables import NOTHING, least, number, share
from trsr.report.words import duration, headline_metrics

MOST_KNOWN = 0.1
"""Above this share of stored answers without a record, what computing all would take is not known.
Up to this share, a ranker's cost is shown as it was measured."""

UNRECORDED = (
    "What each ranker took was not recorded with these rankings, so no quality is drawn against "
    "it: it is recorded when `trsr rank` makes rankings."
)


@dataclass(frozen=True, slots=True)
class RankerCost:
    """What one ranker took for all queries.

    Attributes:
        ranker: Its name.
        queries: How many it ranked.
        preparing: Seconds before the first query: loading, fitting, tuning, proposals.
        seconds: Of ranking, from reading the queries to the lists.
        prompts: Put to a language model while ranking; 0 for a ranker without one.
        from_store: How many of them were answered without computing.
        tokens: Of those that were computed, each prompt in full.
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
    """Costs by ranker, as `to_json` gives them; empty where there are none."""
    return tuple(RankerCost(name, **one) for name, one in (values or {}).items())


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
    said = ["“Before the first query” is loading, fitting and tuning."]
    before = [one.ranker for one in costs if one.known and one.cached_seconds]
    if before:
        said.append(
            f"Of {', '.join(before)} answers were in the store: they count with what they took "
            "when they were computed, perhaps in another run and on another machine."
        )
    unknown = [one.ranker for one in costs if one.queries and not one.known]
    if unknown:
        said.append(
            f"Of {', '.join(unknown)} many answers were in the store, which does not know what "
            "they took."
        )
    return " ".join(said)
