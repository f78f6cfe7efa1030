"""`trsr recommend`: candidates ranked for a known user, or for histories given by hand."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from trsr.bars import visible_name
from trsr.data.requests import read_histories, read_items
from trsr.errors import DataError
from trsr.explanation import named
from trsr.progress import Progress
from trsr.recommender import Recommender
from trsr.types import Query, RankedList, UserHistory


def lines(
    run: Path,
    who: str,
    candidates: Path | None,
    top: int,
    ranker: str,
    as_json: bool,
    progress: Progress,
) -> Iterator[str]:
    """Ranks, and yields what to print."""
    recommender = Recommender.load(run, ranker)
    histories = _histories(recommender, who)
    progress.begin(len(histories), "users")
    if candidates:
        items = tuple(read_items(candidates, recommender.catalog))
        queries = [
            Query(f"recommend/{history.user}/{place}", history, items)
            for place, history in enumerate(histories)
        ]
        found: Iterable[tuple[Query, RankedList]] = zip(
            queries, recommender.rank(queries), strict=True
        )
    else:
        found = recommender.rank_unseen(histories, top)
    nothing = True
    for query, ranked in found:
        nothing = False
        progress.advance()
        yield from (_as_json if as_json else _as_text)(query, ranked, top)
    if nothing:
        who = " and ".join(repr(history.user) for history in histories[:3])
        raise DataError(
            f"user {who} has met all {len(recommender.catalog)} items, so none is left to "
            "recommend; name items to rank with --candidates"
        )


def _histories(recommender: Recommender, who: str) -> list[UserHistory]:
    if Path(who).suffix in (".jsonl", ".json"):
        return read_histories(Path(who), recommender.catalog)
    history = recommender.dataset.history(who)
    if history is None:
        raise DataError(
            f"there is no user {who!r} in this run; give a user of the data, or a file "
            "HISTORY.jsonl"
        )
    return [history]


def _as_text(query: Query, ranked: RankedList, top: int) -> Iterator[str]:
    items = {item.id: item for item in query.candidates}
    yield f"user {visible_name(query.history.user)}, {len(query.history)} interactions:"
    for place, entry in enumerate(ranked.entries[:top], 1):
        yield f"{place:4d}. {entry.score:+9.4f}  {named(items[entry.item])}"


def _as_json(query: Query, ranked: RankedList, top: int) -> Iterator[str]:
    entries = [{"item": e.item, "score": e.score} for e in ranked.entries[:top]]
    yield json.dumps({"user": query.history.user, "ranked": entries}, ensure_ascii=False)
