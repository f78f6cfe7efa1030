"""`trsr show` and `trsr recommend`: what is known of a user, and lists for users and histories."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from trsr.bars import visible_name
from trsr.cli.terminal import command
from trsr.config import Config
from trsr.data import Dataset
from trsr.data.matching import matching
from trsr.data.requests import read_histories, read_items
from trsr.errors import ConfigError, DataError
from trsr.explanation import SummaryTrace, named, page_writer, summary_text, summary_trace
from trsr.models import open_model
from trsr.pipeline.artifacts import SPLITS, read_summaries, with_summary
from trsr.pipeline.pages import GONE_NOTE, tells_summary
from trsr.pipeline.ranking import RETRIEVED, read_retrieved
from trsr.progress import Progress
from trsr.prompts import PromptWriter
from trsr.rankers import read_rankings
from trsr.recommender import RECOMMENDED, Recommender, SeenItems, ranking_writer, recommended
from trsr.storage import files
from trsr.types import Case, Query, RankedList, Summary, UserHistory


def user_lines(run: Path, user: str) -> Iterator[str]:
    """The lines about one user.

    Raises:
        DataError: If there is no such user in the data.
    """
    recommender = Recommender.load(run)
    config, dataset = recommender.config, recommender.dataset
    summaries = read_summaries(run, (config.rank.split,))
    ranked = dataset.cases(config.rank.split)
    cases = [with_summary(case, summaries) for case in ranked.of_user(user)]
    if not cases:
        yield from _unranked(run, recommender, user)
        return
    path = run / RETRIEVED
    proposed = read_retrieved(path) if ranked.full and files.exists(path) else {}
    writer = page_writer(config)
    prompts = _Prompts(config, dataset, proposed)
    for case in cases:
        grown = summary_trace(config, writer, case.query.history, summaries.get(case.query.id))
        yield f"query {case.query.id}"
        yield ""
        yield from _history(config, case.query.history, grown)
        yield from _summary(config, grown, case.query.summary, _reading(recommender, case.query))
        yield from prompts.lines(case.query)
        yield from _ranked(case, run, recommender)


def _unranked(run: Path, recommender: Recommender, user: str) -> Iterator[str]:
    """A user without a ranked query: the newest case with a summary, or all that is known."""
    config, dataset = recommender.config, recommender.dataset
    split, found = config.rank.split, dataset.history(user)
    if found is None:
        some = ", ".join(dataset.cases(split).frame["user"].head(5).to_list())
        raise DataError(f"{run}: there is no user {user!r} in the data; there are, say, {some}")
    history, what = found, "all that is known of the user"
    summary: Summary | None = None
    for other in SPLITS:
        summaries = read_summaries(run, (other,))
        for name, own in dataset.cases(other).of_user(user).histories():
            if name in summaries:
                history, summary, what = own, summaries[name], f"the last summarized {other} case"
    yield (
        f"user {visible_name(user)} has no {split} query: the history was shorter than "
        f"data.min_history = {config.data.min_history}, or the user was not sampled"
    )
    yield f"this is {what}"
    yield ""
    grown = summary_trace(config, page_writer(config), history, summary)
    yield from _history(config, history, grown)
    query = Query(f"show/{user}", history, (dataset.catalog.at(0),), summary)
    yield from _summary(config, grown, summary, _reading(recommender, query))
    yield f"nothing was ranked; `{command('recommend', run, user)}` ranks for the user now"


def _reading(recommender: Recommender, query: Query) -> str:
    """A soft summary in words; empty where it is none, or no ranker of the run reads it."""
    return str(recommender.soft_reading(query) or "")


def _history(config: Config, history: UserHistory, grown: SummaryTrace) -> Iterator[str]:
    fields = config.prompts.fields
    yield f"history of {len(history)} interactions, oldest first:"
    for number, (items, _) in enumerate(grown.blocks, 1):
        yield f"  block {number}" if grown.cut else "  read"
        yield from (f"    {named(item, fields)}" for item in items)
    if grown.rest:
        yield "  not summarized yet" if grown.blocks else "  not summarized"
        yield from (f"    {named(item, fields)}" for item in grown.rest)
    yield ""


def _summary(
    config: Config, grown: SummaryTrace, summary: Summary | None, reading: str
) -> Iterator[str]:
    if summary is None:
        yield "no summary"
        yield ""
        return
    strategy = config.summarize.strategy
    beside = [text for _, text in grown.blocks if text]
    if beside or grown.steps:
        yield f"summaries ({strategy}), in the order of the prompts:"
    for number, text in enumerate((*beside, *grown.steps), 1):
        of = f"block {number}: " if number <= len(beside) else ""
        yield f"  {number}. {of}{text}"
    if grown.missing:
        yield f"  {GONE_NOTE}"
    unread = not any(tells_summary(config, name) for name in config.rank.rankers)
    said = reading or summary_text(config, summary)
    yield f"the summary ({strategy}), of {summary.covers} interactions: {said}"
    if unread:
        yield "no ranker of this run reads the summary"
    yield ""


@dataclass(frozen=True)
class _Prompts:
    """The prompts of the run's language model."""

    config: Config
    dataset: Dataset
    proposed: Mapping[str, Sequence[str]]

    @functools.cached_property
    def _writer(self) -> PromptWriter:
        # the model counts tokens only, so it needs no cache, and an adapter for vectors alone
        adapter = self.dataset.folder / "adapter" if self.config.prompts.item_vectors else None
        return ranking_writer(self.config, open_model(self.config.model, adapter))

    def lines(self, query: Query) -> Iterator[str]:
        """The first prompt about a query, as it is written for the rankers that ask a model."""
        rank = self.config.rank
        asking = rank.those("pointwise")
        if not asking:
            yield "no ranker asks a language model about candidates, so there is no prompt"
            yield ""
            return
        chosen = self.proposed.get(query.id)
        if chosen is not None:
            found = tuple(self.dataset.catalog[item] for item in chosen)
            query = dataclasses.replace(query, candidates=found)
        summarized = bool(rank.those("reads_summary", asking))
        if not summarized:
            nothing = UserHistory(query.history.user, ())
            query = dataclasses.replace(query, history=nothing, summary=None)
        yield f"prompt of the first candidate{'' if summarized else ', without the history'}:"
        for message in self._writer.rank(query)[0].messages:
            yield f"  [{message.role}]"
            yield from (f"  {line}" for line in message.shown.splitlines())
        yield ""


def _weights(recommender: Recommender, ranker: str) -> str:
    """Of a blend: what its members' standardized scores are multiplied by."""
    if not recommender.config.rank.members(ranker):
        return ""
    weights = recommender.fitted(ranker).chosen.get("weights", {})
    return f", {' '.join(f'{weight:+.2f} {name}' for name, weight in weights.items())}"


def _ranked(case: Case, run: Path, recommender: Recommender) -> Iterator[str]:
    path, fields = run / "rankings.parquet", recommender.config.prompts.fields
    if not files.exists(path):
        yield "not ranked yet: give `trsr run`"
        return
    items = {item.id: item for item in case.query.candidates}
    for ranker, lists in read_rankings(path).items():
        for ranked in lists:
            if ranked.query != case.query.id:
                continue
            weights = _weights(recommender, ranker)
            yield f"ranked by {ranker}{weights} (* the item that the user chose next):"
            for place, entry in enumerate(ranked.entries, 1):
                if entry.item not in items:
                    raise DataError(
                        f"{path}: ranker {ranker} ranks {entry.item} for query {case.query.id}, "
                        "which is none of its candidates; give `trsr run` again"
                    )
                mark = "*" if entry.item in case.relevant else " "
                yield f"  {mark}{place:3d}. {entry.score:+9.4f}  {named(items[entry.item], fields)}"
            yield ""


EVERY = 10_000
"""Users whose histories are read at one time, where all are asked for."""


def ranked_lines(
    run: Path,
    who: str | None,
    candidates: Path | None,
    where: Sequence[str],
    top: int,
    ranker: str,
    as_json: bool,
    progress: Progress,
) -> Iterator[str]:
    """Ranks, and yields what to print; `who` is a user or a file, None: every user of the run.

    `where` holds texts `FIELD=VALUE`: only items with one of these values are ranked.
    """
    recommender = Recommender.load(run, ranker)
    fields = recommender.config.prompts.fields
    for query, found in _lists(recommender, who, candidates, where, top, progress):
        yield from _as_json(query, found, top) if as_json else _as_text(query, found, top, fields)


def write_ranked(
    run: Path,
    who: str | None,
    candidates: Path | None,
    where: Sequence[str],
    top: int,
    ranker: str,
    path: Path,
    progress: Progress,
) -> str:
    """Ranks as `ranked_lines`, and writes a table (columns: `RECOMMENDED`), whole or not at all.

    Returns:
        What to say of it.

    Raises:
        ConfigError: If the file's name has no ending of a table, or its folder is not there.
    """
    write = _WRITERS.get(path.suffix.lower())
    if write is None:
        raise ConfigError(f"--out {path}: name it by one of {', '.join(_WRITERS)}")
    if not files.is_folder(path.parent) or files.is_folder(path):
        raise ConfigError(f"--out {path}: name a file in a folder that is there")
    users = rows = 0

    def frames() -> Iterator[pl.DataFrame]:
        nonlocal users, rows
        lists = _lists(Recommender.load(run, ranker), who, candidates, where, top, progress)
        while some := list(itertools.islice(lists, EVERY)):
            frame = recommended(((query.history.user, found) for query, found in some), top)
            users, rows = users + len(some), rows + len(frame)
            yield frame

    write(frames(), path)
    return f"{path}: {rows:,} items for {users:,} {'user' if users == 1 else 'users'}"


def _write_parquet(frames: Iterator[pl.DataFrame], path: Path) -> None:
    files.stream_parquet(frames, RECOMMENDED, path, private=False)


def _write_csv(frames: Iterator[pl.DataFrame], path: Path) -> None:
    with files.writing(path, private=False) as file:
        for number, frame in enumerate(frames):
            frame.write_csv(file, include_header=not number)


def _write_json_lines(frames: Iterator[pl.DataFrame], path: Path) -> None:
    with files.writing(path, private=False) as file:
        for frame in frames:
            frame.write_ndjson(file)


_WRITERS = {".parquet": _write_parquet, ".csv": _write_csv, ".jsonl": _write_json_lines}


def _lists(
    recommender: Recommender,
    who: str | None,
    candidates: Path | None,
    where: Sequence[str],
    top: int,
    progress: Progress,
) -> Iterator[tuple[Query, RankedList]]:
    """Each user's query and list, a batch at a time."""
    items = tuple(read_items(candidates, recommender.catalog)) if candidates else None
    among = matching(recommender.catalog, _filter(where), items) if where else items
    seen: SeenItems | None = None
    if who is None:
        users = recommender.dataset.users
        count, parts = len(users), _all_histories(recommender.dataset, users)
    else:
        own = _histories(recommender, who)
        count, parts = len(own), iter([own])
        seen = {} if _is_file(who) else None
    progress.begin(count, "users")
    place = 0
    nobody: list[str] = []
    for histories in parts:
        found: Iterable[tuple[Query, RankedList]]
        if candidates and among:
            queries = [
                Query(f"recommend/{history.user}/{number}", history, among)
                for number, history in enumerate(histories, place)
            ]
            found = zip(queries, recommender.rank(queries), strict=True)
        else:
            found = recommender.rank_unseen(histories, top, among=among, seen=seen)
        before = place
        for one in found:
            place += 1
            progress.advance()
            yield one
        nobody += [history.user for history in histories] if place == before else []
    if not place:
        named = " and ".join(map(repr, nobody[:3]))
        raise DataError(
            f"user {named} has met all {len(among or recommender.catalog)} items"
            f"{' that match' if where else ''}, so none is left to "
            "recommend; name items to rank with --candidates"
        )


def _filter(given: Iterable[str]) -> dict[str, list[str]]:
    """By field the values of `FIELD=VALUE`.

    Raises:
        ConfigError: If one is not written so.
    """
    found: dict[str, list[str]] = {}
    for text in given:
        field, sign, value = text.partition("=")
        if not (field and sign):
            raise ConfigError(f"--where {text}: write FIELD=VALUE, such as genre=Drama")
        found.setdefault(field, []).append(value)
    return found


def _all_histories(dataset: Dataset, users: Sequence[str]) -> Iterator[list[UserHistory]]:
    for start in range(0, len(users), EVERY):
        some = users[start : start + EVERY]
        found = dataset.histories(some)
        yield [found[user] for user in some]


def _is_file(who: str) -> bool:
    return Path(who).suffix in (".jsonl", ".json")


def _histories(recommender: Recommender, who: str) -> list[UserHistory]:
    if _is_file(who):
        return read_histories(Path(who), recommender.catalog)
    history = recommender.dataset.history(who)
    if history is None:
        raise DataError(
            f"there is no user {who!r} in this run; give a user of the data, or a file "
            "HISTORY.jsonl"
        )
    return [history]


def _as_text(query: Query, ranked: RankedList, top: int, fields: Sequence[str]) -> Iterator[str]:
    items = {item.id: item for item in query.candidates}
    yield f"user {visible_name(query.history.user)}, {len(query.history)} interactions:"
    for place, entry in enumerate(ranked.entries[:top], 1):
        yield f"{place:4d}. {entry.score:+9.4f}  {named(items[entry.item], fields)}"


def _as_json(query: Query, ranked: RankedList, top: int) -> Iterator[str]:
    entries = [{"item": e.item, "score": e.score} for e in ranked.entries[:top]]
    yield json.dumps({"user": query.history.user, "ranked": entries}, ensure_ascii=False)
