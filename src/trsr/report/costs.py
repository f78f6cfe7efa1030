"""What each ranker's lists took: seconds, and tokens where a language model made them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

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
