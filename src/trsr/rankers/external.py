"""`rank.external`: ranked lists of another system, from TREC runs and tables."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import polars as pl

from trsr.data import DataSettings, inputs
from trsr.data.ids import id_text
from trsr.data.readers.base import find, plain
from trsr.data.readers.table import as_table
from trsr.errors import ConfigError, DataError
from trsr.metrics.trec import read_trec_run
from trsr.rankers.base import FitData, FitOptions, Ranker, Resources
from trsr.rankers.batch import QueryBatch, ScoreBatch
from trsr.rankers.rankings import SCHEMA, read_rankings
from trsr.rankers.settings import ExternalSettings
from trsr.registry import near

TABLES = (".csv", ".tsv", ".tab", ".jsonl", ".parquet")
"""What a table's name ends with; other files are TREC runs."""
_COLUMNS = {
    "query": ("query", "queryid", "qid"),
    "score": ("score", "scores", "prediction"),
    "rank": ("rank", "position"),
}
"""Names of columns that a table may have, but for user and item, which are as in the data."""

Lists = dict[str, dict[str, float]]
"""Query or user → item → score."""


class ExternalRanker(Ranker):
    """Answers each query by the list that was given for it.

    Candidates that a list leaves out come after all that it holds, tied. Their score is a mean step
    of the list's scores below its last one, so that a blend can add it to others.

    Attributes:
        lists_: Query → item → score.
        users_: User → item → score, of files that name users in place of queries.
    """

    config: ExternalSettings
    lists_: Lists
    users_: Lists

    def __init__(
        self,
        config: ExternalSettings | None = None,
        resources: Resources | None = None,
        name: str = "",
    ) -> None:
        super().__init__(config, resources, name)
        self._query_of: dict[str, str] = {}
        self._short: set[str] = set()
        self._shortest: tuple[float, float] = (math.inf, math.inf)

    def __len__(self) -> int:
        """How many lists there are."""
        return len(self.lists_) + len(self.users_)

    def fit(self, data: FitData, options: FitOptions) -> None:
        """Reads the lists; raises as `read_lists`."""
        self.lists_, self.users_ = read_lists(self.name, self.config)

    def check(self, batch: QueryBatch) -> None:
        """Refuses lists that hold what is no candidate, of a batch with all that is asked.

        Raises:
            DataError: If there is such a list, or as `score` raises.
        """
        items = batch.item_ids(batch.columns).to_list()
        for row, (query, user) in enumerate(zip(batch.ids, batch.users, strict=True)):
            asked = {items[n] for n in batch.places[row]}
            invented = sorted(self._list(query, user).keys() - asked)
            if invented:
                raise DataError(
                    f"the ranker {self.name}: its list of query {query} invents {len(invented):,} "
                    f"(first: {invented[0]}), where {len(asked):,} candidates are asked; a list "
                    "must hold candidates of its query alone: mend it, or name another one"
                )

    def score(self, batch: QueryBatch) -> ScoreBatch:
        """[queries, columns] the given scores; items of one score are a tie.

        A batch may ask for some of the candidates, as for what a retriever proposes.

        Raises:
            DataError: If there is no list for a query, or two queries are of one user whose list
                does not say which it is for.
        """
        found = batch.blank()
        items = batch.item_ids(batch.columns).to_list()
        for row, (query, user) in enumerate(zip(batch.ids, batch.users, strict=True)):
            scores = self._list(query, user)
            places = batch.places[row]
            asked = [items[n] for n in places]
            last = _after(scores.values())
            found[row, places] = [scores.get(item, last) for item in asked]
            self._counted(query, sum(item in scores for item in asked), len(asked))
        return ScoreBatch(found)

    def _list(self, query: str, user: str) -> dict[str, float]:
        if query in self.lists_:
            return self.lists_[query]
        scores = self.users_.get(user)
        if scores is None:
            raise DataError(
                f"{self._source}: no list for query {query}, among {len(self):,} lists; lists made "
                "elsewhere answer only the queries that they were made for: those of rank.split, "
                "and as the blend's member the validation queries too (queries and candidates: "
                "cases.*.parquet of a run)"
            )
        other = self._query_of.setdefault(user, query)
        if other != query:
            raise DataError(
                f"{self._source}: user {user} has the queries {other} and {query}, and the list "
                "does not say which it is for; name queries in place of users (column query)"
            )
        return scores

    @property
    def _source(self) -> str:
        return ", ".join(map(str, self.config.files))

    def _counted(self, query: str, held: int, asked: int) -> None:
        """Notes how many lists are shorter than asked; a blend may ask the same again."""
        if held < asked and query not in self._short:
            self._short.add(query)
            self._shortest = shortest = min(self._shortest, (held, asked))
            self.notes["note"] = (
                f"{len(self._short):,} of its lists leave out candidates (the shortest holds "
                f"{shortest[0]:,} of {shortest[1]:,}); those count as tied at the end."
            )


def _after(scores: Iterable[float]) -> float:
    """A score below all of a list: by the mean step between its scores, 1 where there is none."""
    known = list(scores) or [0.0]
    low, high = min(known), max(known)
    step = (high - low) / max(len(known) - 1, 1)
    step = step if 0 < step < math.inf else 1.0
    return min(low - step, math.nextafter(low, -math.inf))


def read_lists(name: str, settings: ExternalSettings) -> tuple[Lists, Lists]:
    """The lists of `rank.external.NAME` by query, and those that name users by user.

    Raises:
        ConfigError: If a file holds lists of several rankers and none of them is named, or not the
            one that is.
        DataError: If a file cannot be read, lacks a column, or holds an item twice in a list, or a
            query or user has a list in two files.
    """
    by_query: Lists = {}
    by_user: Lists = {}
    for path in settings.files:
        kind, lists = _read(name, path, settings.ranker)
        found = by_query if kind == "query" else by_user
        twice = found.keys() & lists.keys()
        if twice:
            raise DataError(
                f"{path}: {kind} {min(twice)} has a list in another file of rank.external.{name} "
                "too"
            )
        found |= lists
    return by_query, by_user


def _read(name: str, path: Path, ranker: str) -> tuple[str, Lists]:
    """What the lists are of, query or user, and the lists."""
    suffix = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    if suffix not in TABLES:
        return "query", read_trec_run(path)
    with inputs.located(path):
        table = as_table([path], DataSettings(), header=True)
        if not set(SCHEMA) <= set(table.names):
            return _table(path, table)
    return "query", _rankings(name, path, ranker)


def _table(path: Path, table: inputs.Table) -> tuple[str, Lists]:
    """A row an item: `query` or `user`, `item`, `score` or `rank`; a score decides, not a rank."""
    names = table.names
    by_plain = {plain(name): name for name in reversed(names)}
    named = {
        role: next((by_plain[one] for one in known if one in by_plain), None)
        for role, known in _COLUMNS.items()
    }
    kind = "query" if named["query"] else "user"
    of, item = named["query"] or find(names, "user", "", path), find(names, "item", "", path)
    value = named["score"] or named["rank"]
    if not of or not item or not value:
        raise DataError(
            f"{path}: a table of ranked lists has the columns query (or user), item, and score (or "
            f"rank); here the columns are {', '.join(names)}"
        )
    rows = table.frame.select(of=of, item=item, score=value).collect()
    rows = rows.with_columns(
        id_text(rows["of"], path) if kind == "user" else pl.col("of").cast(pl.String),
        id_text(rows["item"], path),
        pl.col("score").cast(pl.Float64, strict=False),
    )
    wrong = rows.with_row_index("row", offset=1).filter(
        pl.any_horizontal(pl.col("of", "item").is_null(), ~pl.col("score").is_finite())
        | pl.col("score").is_null()
    )
    if len(wrong):
        row = wrong["row"][0]
        raise DataError(
            f"{path}: {len(wrong):,} rows lack a {kind}, an item, or a {value} that is a finite "
            f"number (first: row {row}, header not counted)"
        )
    twice = rows.filter(pl.struct("of", "item").is_duplicated())
    if len(twice):
        one, again, _ = twice.row(0)
        raise DataError(f"{path}: item {again} stands twice in the list of {kind} {one}")
    if value != named["score"]:
        rows = rows.with_columns(-pl.col("score"))
    lists: Lists = {}
    for one, item_id, score in rows.iter_rows():
        lists.setdefault(one, {})[item_id] = score
    return kind, lists


def _rankings(name: str, path: Path, ranker: str) -> Lists:
    """The lists of one ranker, in a file as a run's `rankings.parquet`."""
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
