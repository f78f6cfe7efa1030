"""`trsr show`: everything that a run did for one user."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from trsr.cli.recommend import title
from trsr.errors import DataError
from trsr.pipeline.artifacts import read_summaries, with_summary
from trsr.pipeline.told import told_summaries
from trsr.rank import read_rankings
from trsr.recommender import Recommender
from trsr.store.outputs import OutputStore
from trsr.types import Case, Summary


def lines(run: Path, user: str) -> Iterator[str]:
    """What to print of one user.

    Raises:
        DataError: If the run has no test case of this user.
    """
    recommender = Recommender.load(run)
    own = read_summaries(run / "summaries.parquet")
    summaries = told_summaries(recommender.config, recommender.dataset, "test", own)
    test = recommender.dataset.cases("test")
    cases = [with_summary(case, summaries) for case in test.of_user(user)]
    if not cases:
        some = ", ".join(test.frame["user"].head(5).to_list())
        raise DataError(f"{run}: there is no test query of user {user!r}; there are, say, {some}")
    for case in cases:
        yield from _case(recommender, case, run)


def _case(recommender: Recommender, case: Case, run: Path) -> Iterator[str]:
    query = case.query
    yield f"query {query.id}"
    yield ""
    yield f"history of {len(query.history)} interactions, oldest first, in blocks:"
    for number, block in enumerate(query.history.blocks(recommender.config.summarize.block_items)):
        yield f"  block {number + 1}"
        yield from (f"    {item.id}  {title(item)}" for item in block.items)
    yield ""
    yield from _summary(recommender, query.summary)
    prompts = recommender.prompts(query)
    yield "prompt of the first candidate:"
    for message in prompts[0].messages:
        yield f"  [{message.role}]"
        yield from (f"  {line}" for line in message.content.splitlines())
    yield ""
    yield from _ranked(case, run)


def _summary(recommender: Recommender, summary: Summary | None) -> Iterator[str]:
    if summary is None:
        yield "no summary"
        yield ""
        return
    whose = "another user's " if recommender.config.prompts.summary_of == "another" else ""
    strategy = recommender.config.summarize.strategy
    if summary.sources:
        yield f"{whose}summaries ({strategy}), as they were asked:"
    known = OutputStore(recommender.config.run.outputs).get(summary.sources)
    for number, key in enumerate(summary.sources, 1):
        text = " ".join(str(known.get(key, "(not kept)")).split())
        yield f"  {number}. {text}"
    what = f"{whose}summary, in place of the own" if whose else f"the summary ({strategy}),"
    yield f"{what} of {summary.covers} interactions: {summary.text}"
    yield ""


def _ranked(case: Case, run: Path) -> Iterator[str]:
    path = run / "rankings.parquet"
    if not path.exists():
        yield "not ranked yet: give `trsr rank`"
        return
    items = {item.id: item for item in case.query.candidates}
    for ranker, lists in read_rankings(path).items():
        for ranked in lists:
            if ranked.query != case.query.id:
                continue
            yield f"ranked by {ranker} (* the item that was taken next):"
            for place, entry in enumerate(ranked.entries, 1):
                mark = "*" if entry.item in case.relevant else " "
                name = title(items[entry.item])
                yield f"  {mark}{place:3d}. {entry.score:+9.4f}  {entry.item}  {name}"
            yield ""
