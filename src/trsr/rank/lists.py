"""Ranks by lists that were made elsewhere: another system's, or another run's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trsr.errors import ConfigError, DataError
from trsr.plugins import near
from trsr.rank.rankings import read_rankings
from trsr.trec import read_trec_run
from trsr.types import Entry, Query, RankedList

if TYPE_CHECKING:
    from trsr.rank.settings import ListsSettings

Scores = Mapping[str, float]


class ListsRanker:
    """Answers each query by the list that was given for it.

    What is not just the query's candidates is left as it is: who asks refuses it (`checked`).

    Args:
        lists: Query → item → score.
        source: Where they come from, as a message names it.
    """

    def __init__(self, lists: Mapping[str, Scores], source: str) -> None:
        self._lists = lists
        self._source = source

    def __len__(self) -> int:
        """How many queries have a list."""
        return len(self._lists)

    def rank(self, queries: Iterable[Query]) -> Iterator[RankedList]:
        """Yields one list a query, in their order; items of one score are a tie.

        Raises:
            DataError: If there is no list for a query.
        """
        for query in queries:
            scores = self._lists.get(query.id)
            if scores is None:
                raise DataError(
                    f"{self._source}: no list for query {query.id}, among lists for "
                    f"{len(self._lists):,} queries; lists made elsewhere answer only the queries "
                    "that they were made for: those of rank.split, and as the blend's member the "
                    "validation queries too (queries and candidates: cases.*.parquet of a run)"
                )
            # ties keep the candidates' order, whatever the file's was
            ids = [item.id for item in query.candidates if item.id in scores]
            known = set(ids)
            ids += sorted(item for item in scores if item not in known)
            ids.sort(key=lambda item: -scores[item])
            yield RankedList(query.id, tuple(Entry(item, scores[item]) for item in ids))


def read_lists(name: str, settings: ListsSettings) -> ListsRanker:
    """The ranker of `rank.lists.NAME`.

    Raises:
        ConfigError: If a file holds lists of several rankers and none of them is named, or not the
            one that is.
        DataError: If a file cannot be read, or a query has a list in two files.
    """
    found: dict[str, Scores] = {}
    for path in settings.files:
        lists = _parquet(name, path, settings.ranker) if _is_parquet(path) else read_trec_run(path)
        twice = found.keys() & lists.keys()
        if twice:
            raise DataError(
                f"{path}: query {min(twice)} has a list in another file of rank.lists.{name} too"
            )
        found |= lists
    return ListsRanker(found, _named(settings.files))


def _is_parquet(path: Path) -> bool:
    return path.suffix == ".parquet"


def _parquet(name: str, path: Path, ranker: str) -> dict[str, Scores]:
    rankers = read_rankings(path)
    if not ranker and len(rankers) != 1:
        names = ", ".join(sorted(rankers)) or "no ranker"
        raise ConfigError(
            f"rank.lists.{name}: {path} holds lists of {names}; name one in "
            f"rank.lists.{name}.ranker"
        )
    if ranker and ranker not in rankers:
        raise ConfigError(
            f"rank.lists.{name}.ranker: {path} has no lists of {ranker!r}"
            f"{near(ranker, list(rankers))}"
        )
    chosen = rankers[ranker or next(iter(rankers))]
    return {ranked.query: {entry.item: entry.score for entry in ranked} for ranked in chosen}


def _named(files: Sequence[Path]) -> str:
    return ", ".join(map(str, files))
