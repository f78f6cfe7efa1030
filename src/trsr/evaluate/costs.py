"""What each ranker's lists took: seconds, and tokens where a language model made them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

MOST_KNOWN = 0.1
"""Above this share of stored answers without a record, what computing all would take is not known.
Up to this share of them what a ranker took is told as it was measured."""

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
        stored_seconds: What the answers from the store took when they were computed, each once.
        stored_tokens: Likewise.
        stored_unknown: Of how many of them that is not known; None: of all, as in older records.
        members: In older records the rankers whose scores it reads, as a blend does.
    """

    ranker: str
    queries: int
    preparing: float
    seconds: float
    prompts: int = 0
    from_store: int = 0
    tokens: int = 0
    stored_seconds: float = 0.0
    stored_tokens: int = 0
    stored_unknown: int | None = None
    members: tuple[str, ...] = ()

    @property
    def known(self) -> bool:
        """Whether there are queries, and it is known what all but a few answers took."""
        unknown = self.from_store if self.stored_unknown is None else self.stored_unknown
        return self.queries > 0 and unknown <= MOST_KNOWN * self.prompts

    @property
    def seconds_a_query(self) -> float | None:
        """With what stored answers took; None where it is not known."""
        whole = self.seconds + self.stored_seconds
        return whole / self.queries if self.known else None

    @property
    def tokens_a_query(self) -> float | None:
        """With those of stored answers; None where it is not known, or no model was asked."""
        whole = self.tokens + self.stored_tokens
        return whole / self.queries if self.known and self.prompts else None

    def to_json(self) -> dict[str, Any]:
        """Plain values, without the name."""
        values = asdict(self)
        values.pop("ranker")
        return values

    def alone(self, costs: Mapping[str, RankerCost]) -> RankerCost:
        """What it would take alone: with what its members computed for it before, by their names.

        A blend that ranks after its members finds their language model's answers in the store,
        which tells what they took, but in older records did not.
        """
        found = replace(self, members=())
        if self.stored_unknown is not None:
            return found
        for one in (costs[name] for name in self.members if name in costs):
            if one.prompts and found.from_store:
                found = replace(
                    found,
                    seconds=found.seconds + one.seconds,
                    from_store=max(found.from_store - one.prompts + one.from_store, 0),
                    tokens=found.tokens + one.tokens,
                )
        return found


def read_costs(values: Mapping[str, Mapping[str, Any]] | None) -> tuple[RankerCost, ...]:
    """Costs by ranker, as `to_json` gives them, each alone; empty where there are none."""
    every = {
        name: RankerCost(name, **{**one, "members": tuple(one.get("members", ()))})
        for name, one in (values or {}).items()
    }
    return tuple(one.alone(every) for one in every.values())
