"""`trsr show` and `trsr recommend`: what is known of a user, and lists for users and histories."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trsr.bars import visible_name
from trsr.cli.terminal import command
from trsr.config import Config
from trsr.data import Dataset
from trsr.data.requests import read_histories, read_items
from trsr.errors import DataError
from trsr.explanation import SummaryTrace, named, page_writer, summary_text, summary_trace
from trsr.models import open_model
from trsr.pipeline.artifacts import SPLITS, read_summaries, with_summary
from trsr.pipeline.pages import GONE_NOTE, tells_summary
from trsr.pipeline.ranking import RETRIEVED, read_retrieved
from trsr.progress import Progress
from trsr.prompts import PromptWriter
from trsr.rankers import read_rankings
from trsr.recommender import Recommender, ranking_writer
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
        yield from _history(case.query.history, grown)
        yield from _summary(config, grown, case.query.summary, _reading(recommender, case.query))
        yield from prompts.lines(case.query)
        yield from _ranked(case, run)


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
        f"user {visible_name(user)} has no {split} query: the history was too short, or the user "
        "was not sampled"
    )
    yield f"this is {what}"
    yield ""
    grown = summary_trace(config, page_writer(config), history, summary)
    yield from _history(history, grown)
    query = Query(f"show/{user}", history, (dataset.catalog.at(0),), summary)
    yield from _summary(config, grown, summary, _reading(recommender, query))
    yield f"nothing was ranked; `{command('recommend', run, user)}` ranks for the user now"


def _reading(recommender: Recommender, query: Query) -> str:
    """A soft summary in words; empty where it is none, or no ranker of the run reads it."""
    return str(recommender.soft_reading(query) or "")


def _history(history: UserHistory, grown: SummaryTrace) -> Iterator[str]:
    yield f"history of {len(history)} interactions, oldest first:"
    for number, (items, _) in enumerate(grown.blocks, 1):
        yield f"  block {number}" if grown.cut else "  read"
        yield from (f"    {named(item)}" for item in items)
    if grown.rest:
        yield "  not summarized yet" if grown.blocks else "  not summarized"
        yield from (f"    {named(item)}" for item in grown.rest)
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


def _ranked(case: Case, run: Path) -> Iterator[str]:
    path = run / "rankings.parquet"
    if not files.exists(path):
        yield "not ranked yet: give `trsr run`"
        return
    items = {item.id: item for item in case.query.candidates}
    for ranker, lists in read_rankings(path).items():
        for ranked in lists:
            if ranked.query != case.query.id:
                continue
            yield f"ranked by {ranker} (* the item that the user chose next):"
            for place, entry in enumerate(ranked.entries, 1):
                if entry.item not in items:
                    raise DataError(
                        f"{path}: ranker {ranker} ranks {entry.item} for query {case.query.id}, "
                        "which is none of its candidates; give `trsr run` again"
                    )
                mark = "*" if entry.item in case.relevant else " "
                yield f"  {mark}{place:3d}. {entry.score:+9.4f}  {named(items[entry.item])}"
            yield ""


def ranked_lines(
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
        found = recommender.rank_unseen(histories, top, seen={} if _is_file(who) else None)
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


def _as_text(query: Query, ranked: RankedList, top: int) -> Iterator[str]:
    items = {item.id: item for item in query.candidates}
    yield f"user {visible_name(query.history.user)}, {len(query.history)} interactions:"
    for place, entry in enumerate(ranked.entries[:top], 1):
        yield f"{place:4d}. {entry.score:+9.4f}  {named(items[entry.item])}"


def _as_json(query: Query, ranked: RankedList, top: int) -> Iterator[str]:
    entries = [{"item": e.item, "score": e.score} for e in ranked.entries[:top]]
    yield json.dumps({"user": query.history.user, "ranked": entries}, ensure_ascii=False)
