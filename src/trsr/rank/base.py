"""What a ranker is, what it may be fitted on, and going on past a query that cannot be asked."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, cast

from trsr.errors import DataError, PromptError
from trsr.progress import Progress, Silent
from trsr.rank.settings import RANKERS, RankSettings
from trsr.types import Case, Query, RankedList, RankedListError

if TYPE_CHECKING:
    import polars as pl

    from trsr.data import Catalog
    from trsr.llm import ScoringModel
    from trsr.prompts import PromptWriter


class Ranker(Protocol):
    """Orders candidates. It is given queries, which hold no answer, and nothing else."""

    def rank(self, queries: Iterable[Query]) -> Iterator[RankedList]:
        """Yields one list a query, lazily, in the queries' order, each query exactly once.

        A list holds every candidate of its query once, and nothing else; it is best first, and a
        higher score is better. Who asks refuses any other (see `checked`). Candidates that the
        ranker cannot tell apart have the same score: evaluation counts a tie as its expected value,
        so no order is to be made up.

        Raises:
            PromptError: If a query's prompt cannot be made to fit.
        """


@dataclass(frozen=True)
class RankContext:
    """What a ranker may be made of: no test case is in it.

    Attributes:
        catalog: The items with their texts, in catalogue order.
        interactions: Columns `user`, `item` (str) and `time` (f64): only what happened before
            every validation and test target.
        seed: The run's seed.
        judge: Opens the language model and its words; the argument says whether the tuned one is
            asked for. Called only by rankers that need a model.
        queries_per_batch: How many queries' prompts go to the model in one call.
        training: The training cases; each targets an earlier interaction of its user.
        validation: The validation cases, whose answers may decide between settings: a ranker
            that is tuned is tuned on these.
        settings: The settings of ranking.
        quality: Judges lists of validation cases by `rank.tune_on`: metric → mean, the most
            important first. None: nothing is tuned.
        progress: Told about long preparations.
        train_seed: The seed of what a ranker's training draws, such as a network's weights; other
            draws follow from `seed`. None: that one.
        kept: The blend's members once they are made: a ranker that is also a row of its own is made
            once.
        making: The rankers that are being made, each for the one before it.
        dear: Those that opened a language model, themselves or through another.
    """

    catalog: Catalog
    interactions: pl.DataFrame
    seed: int
    judge: Callable[[bool], tuple[ScoringModel, PromptWriter]]
    queries_per_batch: int = 8
    training: Callable[[], Iterable[Case]] = tuple
    validation: Callable[[], Iterable[Case]] = tuple
    settings: RankSettings = field(default_factory=RankSettings)
    quality: Callable[[Sequence[Case], Sequence[RankedList]], Mapping[str, float]] | None = None
    progress: Progress = field(default_factory=Silent)
    train_seed: int | None = None
    kept: dict[str, Ranker] = field(default_factory=dict)
    making: list[str] = field(default_factory=list)
    dear: set[str] = field(default_factory=set)

    def opened(self) -> None:
        """Notes that the rankers that are being made open a language model."""
        self.dear.update(self.making)


def make_ranker(name: str, context: RankContext) -> Ranker:
    """Makes one ranker by its name in `RANKERS` or in `rank.lists`.

    Raises:
        ConfigError: If there is no such ranker; near names are suggested.
    """
    context.making.append(name)
    try:
        if name in context.dear:
            context.opened()
        ranker = context.kept.get(name) or _made(name, context)
    finally:
        context.making.pop()
    if name in context.settings.blended:
        context.kept[name] = ranker
    return ranker


def _made(name: str, context: RankContext) -> Ranker:
    if name in context.settings.lists:
        from trsr.rank.lists import read_lists

        return read_lists(name, context.settings.lists[name])
    return cast("Ranker", RANKERS.load(name)(context))


def checked(ranker: Ranker, queries: Iterable[Query], name: str = "") -> Iterator[RankedList]:
    """Ranks, and refuses what is not one list a query of just its candidates.

    Args:
        ranker: Any ranker.
        queries: What to rank.
        name: The ranker's, for messages; left out: its class's.

    Yields:
        The ranker's lists.

    Raises:
        PromptError: If a query's prompt cannot be made to fit.
        DataError: If the ranker answers another query than the one that is due, or too few; or if
            a list leaves out or invents candidates, is not sorted, or names an item twice.
    """
    waiting: deque[Query] = deque()
    return _answered(ranker, _noted(iter(queries), waiting), waiting, name)


def rank_what_fits(
    ranker: Ranker,
    queries: Iterable[Query],
    skipped: Callable[[Query, PromptError], None],
    name: str = "",
) -> Iterator[RankedList]:
    """Ranks on past queries whose prompt cannot be made to fit.

    When a call fails, the queries that it had read but not answered are ranked one by one, so only
    those that fail alone are left out.

    Args:
        ranker: Any ranker.
        queries: What to rank.
        skipped: Told each query that was left out, and why.
        name: The ranker's, for messages; left out: its class's.

    Yields:
        The lists of the others, in the queries' order.

    Raises:
        DataError: As `checked` does.
    """
    source = iter(queries)
    waiting: deque[Query] = deque()
    going = True
    while going:
        try:
            yield from _answered(ranker, _noted(source, waiting), waiting, name)
            going = False
        except PromptError:
            # Those in `waiting` follow below, outside the handler: their errors are their own.
            pass
        while waiting:
            yield from _alone(ranker, waiting.popleft(), skipped, name)


def _noted(source: Iterator[Query], waiting: deque[Query]) -> Iterator[Query]:
    for query in source:
        waiting.append(query)
        yield query


def _answered(
    ranker: Ranker, queries: Iterator[Query], waiting: deque[Query], name: str
) -> Iterator[RankedList]:
    """Takes each query that is answered off `waiting`, and checks its list."""
    name = name or type(ranker).__name__
    try:
        for ranked in ranker.rank(queries):
            due = waiting[0].id if waiting else "none"
            if ranked.query != due:
                raise DataError(
                    f"the ranker {name} answered query {ranked.query} where {due} was due; "
                    "a ranker must give each query one list, in the queries' order"
                )
            _check_candidates(name, waiting.popleft(), ranked)
            yield ranked
    except RankedListError as error:
        raise DataError(
            f"the ranker {name}: {error}; a list must name each candidate once, best first, and "
            "score it by a number"
        ) from error
    next(queries, None)  # a ranker that stopped early leaves a query unread: it is noted here
    if waiting:
        raise DataError(
            f"the ranker {name} gave no list for query {waiting[0].id}; a ranker must give each "
            "query one"
        )


def _check_candidates(name: str, query: Query, ranked: RankedList) -> None:
    # two sets: the fastest way where the candidates are a whole catalogue
    given = {entry.item for entry in ranked.entries}
    asked = {item.id for item in query.candidates}
    if given != asked:
        left_out = [item.id for item in query.candidates if item.id not in given]
        invented = [entry.item for entry in ranked.entries if entry.item not in asked]
        faults = " and ".join(
            f"{what} {len(items):,} (first: {items[0]})"
            for what, items in (("leaves out", left_out), ("invents", invented))
            if items
        )
        raise DataError(
            f"the ranker {name}: its list of query {query.id} {faults}, where {len(asked):,} "
            "candidates are asked; a ranker must rank just the candidates it is given: mend it, or "
            "name another one"
        )
    if ranked.entries and math.isnan(
        ranked.entries[0].score
    ):  # longer lists are compared as they are made
        raise DataError(f"the ranker {name}: query {query.id}: a score is not a number")


def _alone(
    ranker: Ranker, query: Query, skipped: Callable[[Query, PromptError], None], name: str
) -> Iterator[RankedList]:
    try:
        yield from list(_answered(ranker, iter((query,)), deque((query,)), name))
    except PromptError as error:
        skipped(query, error)
