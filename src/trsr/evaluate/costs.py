"""What each ranker's lists took: seconds, and tokens where a language model made them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

MOST_KNOWN = 0.05
"""Above this share of answers that were there before, what computing all would take is not known.
Candidates that read alike are asked for once and count as such, so a few there always may be."""

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
        tokens: Of those that were computed, each prompt counted whole.
    """

    ranker: str
    queries: int
    preparing: float
    seconds: float
    prompts: int = 0
    from_store: int = 0
    tokens: int = 0

    @property
    def known(self) -> bool:
        """Whether there are queries, and the store gave so few answers that they say nothing."""
        return self.queries > 0 and self.from_store <= MOST_KNOWN * self.prompts

    @property
    def seconds_a_query(self) -> float | None:
        """None where it is not known."""
        return self.seconds / self.queries if self.known else None

    @property
    def tokens_a_query(self) -> float | None:
        """None where it is not known, or there is no language model."""
        return self.tokens / self.queries if self.known and self.prompts else None

    def to_json(self) -> dict[str, Any]:
        """Plain values, without the name."""
        values = asdict(self)
        values.pop("ranker")
        return values


def read_costs(values: Mapping[str, Mapping[str, Any]] | None) -> tuple[RankerCost, ...]:
    """Costs by ranker, as `to_json` gives them; empty where there are none."""
    return tuple(RankerCost(name, **one) for name, one in (values or {}).items())
