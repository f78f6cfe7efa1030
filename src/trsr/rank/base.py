"""What a ranker is, what it may be fitted on, and going on past a query that cannot be asked."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, cast

from trsr.errors import DataError, PromptError
from trsr.progress import Progress, Silent
from trsr.rank.settings import RANKERS, RankSettings
from trsr.types import Case, Query, RankedList

if TYPE_CHECKING:
    import polars as pl

    from trsr.data import Catalog
    from trsr.llm import ScoringModel
    from trsr.prompts import PromptWriter
    from trsr.rank.prior import Prior


class Ranker(Protocol):
    """Orders candidates. It is given queries, which hold no answer, and nothing else."""

    def rank(self, queries: Iterable[Query]) -> Iterator[RankedList]:
        """Yields one list a query, lazily, in the queries' order, each query exactly once.

        A list holds every candidate of its query, and a higher score is better. Candidates that
        the ranker cannot tell apart have the same score: evaluation counts a tie as its expected
        value, so no order is to be made up.

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
        prior: What the trained model was trained beside; its score is added in ranking. None:
            nothing.
        kept: The blend's members and the prior's ranker once they are made: a ranker that is also
            a row of its own is neither fitted nor loaded twice.
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
    prior: Prior | None = None
    kept: dict[str, Ranker] = field(default_factory=dict)
    making: list[str] = field(default_factory=list)
    dear: set[str] = field(default_factory=set)

    def opened(self) -> None:
        """Notes that the rankers that are being made open a language model."""
        self.dear.update(self.making)


def make_ranker(name: str, context: RankContext) -> Ranker:
    """Makes one ranker by its name in `RANKERS`: a callable that takes the context.

    Raises:
        ConfigError: If there is no such ranker; near names are suggested.
    """
    context.making.append(name)
    try:
        if name in context.dear:
            context.opened()
        ranker = context.kept.get(name) or cast("Ranker", RANKERS.load(name)(context))
    finally:
        context.making.pop()
    if name in context.settings.blended or (context.prior and name == context.prior.ranker):
        context.kept[name] = ranker
    return ranker


def rank_what_fits(
    ranker: Ranker, queries: Iterable[Query], skipped: Callable[[Query, PromptError], None]
) -> Iterator[RankedList]:
    """Ranks on past queries whose prompt cannot be made to fit.

    When a call fails, the queries that it had read but not answered are ranked one by one, so only
    those that fail alone are left out.

    Args:
        ranker: Any ranker.
        queries: What to rank.
        skipped: Told each query that was left out, and why.

    Yields:
        The lists of the others, in the queries' order.

    Raises:
        DataError: If the ranker answers another query than the one that is due, or too few.
    """
    source = iter(queries)
    waiting: deque[Query] = deque()
    going = True
    while going:
        try:
            yield from _answered(ranker, _noted(source, waiting), waiting)
            going = False
        except PromptError:
            # Those in `waiting` follow below, outside the handler: their errors are their own.
            pass
        while waiting:
            yield from _alone(ranker, waiting.popleft(), skipped)


def _noted(source: Iterator[Query], waiting: deque[Query]) -> Iterator[Query]:
    for query in source:
        waiting.append(query)
        yield query


def _answered(
    ranker: Ranker, queries: Iterator[Query], waiting: deque[Query]
) -> Iterator[RankedList]:
    """Takes each query that is answered off `waiting`, and checks that none is left out."""
    for ranked in ranker.rank(queries):
        due = waiting[0].id if waiting else "none"
        if ranked.query != due:
            raise DataError(f"the ranker answered query {ranked.query} where {due} was due")
        waiting.popleft()
        yield ranked
    next(queries, None)  # a ranker that stopped early leaves a query unread: it is noted here
    if waiting:
        raise DataError(f"the ranker gave no list for query {waiting[0].id}")


def _alone(
    ranker: Ranker, query: Query, skipped: Callable[[Query, PromptError], None]
) -> Iterator[RankedList]:
    try:
        yield from list(_answered(ranker, iter((query,)), deque((query,))))
    except PromptError as error:
        skipped(query, error)
