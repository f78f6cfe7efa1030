"""Ranks by lists that were made elsewhere: another system's, or another run's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from trsr.errors import ConfigError, DataError
from trsr.metrics.trec import read_trec_run
from trsr.rankers.base import FitData, FitOptions, Ranker
from trsr.rankers.batch import QueryBatch, ScoreBatch
from trsr.rankers.rankings import read_rankings
from trsr.rankers.settings import ExternalSettings
from trsr.registry import near

Scores = Mapping[str, float]


class ExternalRanker(Ranker):
    """Answers each query by the list that was given for it.

    Attributes:
        lists_: Query → item → score.
    """

    config: ExternalSettings
    lists_: dict[str, dict[str, float]]

    def __len__(self) -> int:
        """How many queries have a list."""
        return len(self.lists_)

    def fit(self, data: FitData, options: FitOptions) -> None:
        """Reads the lists; raises as `read_lists`."""
        self.lists_ = read_lists(self.name, self.config)

    def score(self, batch: QueryBatch) -> ScoreBatch:
        """[queries, columns] the given scores; items of one score are a tie.

        Raises:
            DataError: If there is no list for a query, or it is not of just its candidates.
        """
        found = batch.blank()
        items = batch.item_ids(batch.columns).to_list()
        for row, query in enumerate(batch.ids):
            found[row, batch.places[row]] = self._of(query, [items[n] for n in batch.places[row]])
        return ScoreBatch(found)

    def _of(self, query: str, asked: Sequence[str]) -> list[float]:
        scores = self.lists_.get(query)
        if scores is None:
            source = ", ".join(map(str, self.config.files))
            raise DataError(
                f"{source}: no list for query {query}, among lists for {len(self.lists_):,} "
                "queries; lists made elsewhere answer only the queries that they were made for: "
                "those of rank.split, and as the blend's member the validation queries too "
                "(queries and candidates: cases.*.parquet of a run)"
            )
        if scores.keys() == set(asked):
            return [scores[item] for item in asked]
        known = set(asked)
        left_out = [item for item in asked if item not in scores]
        invented = sorted(item for item in scores if item not in known)
        faults = " and ".join(
            f"{what} {len(ones):,} (first: {ones[0]})"
            for what, ones in (("leaves out", left_out), ("invents", invented))
            if ones
        )
        raise DataError(
            f"the ranker {self.name}: its list of query {query} {faults}, where {len(asked):,} "
            "candidates are asked; a list must be of just the query's candidates: mend it, or "
            "name another one"
        )


def read_lists(name: str, settings: ExternalSettings) -> dict[str, dict[str, float]]:
    """The lists of `rank.external.NAME`: query → item → score.

    Raises:
        ConfigError: If a file holds lists of several rankers and none of them is named, or not the
            one that is.
        DataError: If a file cannot be read, or a query has a list in two files.
    """
    found: dict[str, dict[str, float]] = {}
    for path in settings.files:
        lists = _parquet(name, path, settings.ranker) if _is_parquet(path) else read_trec_run(path)
        twice = found.keys() & lists.keys()
        if twice:
            raise DataError(
                f"{path}: query {min(twice)} has a list in another file of rank.external.{name} too"
            )
        found |= {query: dict(scores) for query, scores in lists.items()}
    return found


def _is_parquet(path: Path) -> bool:
    return path.suffix == ".parquet"


def _parquet(name: str, path: Path, ranker: str) -> dict[str, Scores]:
    rankers = read_rankings(path)
    if not ranker and len(rankers) != 1:
        names = ", ".join(sorted(rankers)) or "no ranker"
        raise ConfigError(
            f"rank.external.{name}: {path} holds lists of {names}; name one in "
            f"rank.external.{name}.ranker"
        )
    if ranker and ranker not in rankers:
        raise ConfigError(
            f"rank.external.{name}.ranker: {path} has no lists of {ranker!r}"
            f"{near(ranker, list(rankers))}"
        )
    chosen = rankers[ranker or next(iter(rankers))]
    return {ranked.query: {entry.item: entry.score for entry in ranked} for ranked in chosen}
