"""Checks that ask the ranking model: does the order of the history matter, does the summary."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from trsr.audit.evidence import Check, Evidence
from trsr.errors import PromptError
from trsr.evaluate import FullAnswerKey, evaluate
from trsr.evaluate.answers import AnswerKey
from trsr.evaluate.statistics import LEVEL, compare_columns, holm
from trsr.pipeline.artifacts import adapter_of, with_summary
from trsr.pipeline.full import PROPOSALS, read_proposals
from trsr.progress import Progress
from trsr.rank import YesNoRanker, rank_what_fits
from trsr.recommender import judge
from trsr.settings import derive_seed
from trsr.store.rundir import RunDirectory
from trsr.types import Interaction, Query, RankedList, UserHistory

METRICS = ("auc", "ndcg@10")
Change = Callable[[Query], Query]
NAMES = {
    "shuffled": "does the order of the history matter",
    "swapped": "does the user's own summary matter",
    "none": "does a summary matter",
}
AGAINST = {"shuffled": "a shuffled history", "swapped": "another user's", "none": "none"}


def model_checks(run: Evidence, queries: int, progress: Progress) -> Iterator[Check]:
    """Ranks some test queries as they are, and again with a part of the input spoilt.

    Args:
        run: The run.
        queries: How many test queries, drawn by lot; 0: the checks are skipped, as they are where
            no ranker of the run asks a language model.
        progress: Advanced by a query.

    Yields:
        A warning where spoiling the input makes no difference that the queries can tell, or where
        the spoilt input ranks better.
    """
    why = _unasked(run, queries)
    chosen = [] if why else _chosen(run, queries)
    if len(chosen) < 2:
        for name in NAMES.values():
            yield Check(name, "skipped", why or "there are too few test queries")
        return
    adapter = adapter_of(RunDirectory(run.folder))
    ranker = YesNoRanker(*judge(run.config, adapter), run.config.rank.queries_per_batch)
    changes = _changes(chosen)
    if run.others_told:
        changes.pop("swapped", None)
    progress.begin(len(chosen) * (1 + len(changes)), "queries")
    ranker_name = "llm" if adapter else "untuned"
    key = _key(run, chosen)
    users = [query.history.user for query in sorted(chosen, key=lambda one: one.id)]
    own = _values(key(), _ranked(ranker, chosen, progress))
    for kind, name in NAMES.items():
        if kind not in changes:
            others = kind == "swapped" and run.others_told
            told = "other users' summaries, as a control" if others else "no summaries"
            yield Check(name, "skipped", f"the run tells the model {told}")
            continue
        spoilt = [changes[kind](query) for query in chosen]
        other = _values(key(), _ranked(ranker, spoilt, progress))
        whose = "another user's" if kind == "none" and run.others_told else "own"
        yield _compared(name, kind, ranker_name, own - other, users, whose)


def _unasked(run: Evidence, queries: int) -> str:
    """Why the model is not asked; empty where it is."""
    used = run.config.rank.used
    if not run.config.rank.those(
        "uses_llm"
    ):  # a model that the run never asked says nothing of its figures
        return f"no ranker of the run asks a language model ({', '.join(used)})"
    return "" if queries else "needs the language model: give --llm-queries N"


def _chosen(run: Evidence, most: int) -> list[Query]:
    """Some test queries with the summaries told; full-catalogue ones with what was proposed."""
    import polars as pl

    cases = run.cases["test"]
    names = sorted(cases.frame["query"], key=lambda name: derive_seed(0, "audit model", name))
    cases = cases.only(pl.col("query").is_in(names[:most]))
    if not cases.full:
        return [with_summary(case, run.told).query for case in cases]
    path = run.folder / PROPOSALS
    if not path.is_file():
        return []
    proposed = read_proposals(path)
    item = run.dataset.catalog.__getitem__
    return [
        Query(name, history, tuple(map(item, proposed[name])), run.told.get(name))
        for name, history in cases.histories()
    ]


def _key(run: Evidence, chosen: Sequence[Query]) -> Callable[[], AnswerKey]:
    import polars as pl

    cases = run.cases["test"].only(pl.col("query").is_in([query.id for query in chosen]))
    if cases.full:
        return lambda: FullAnswerKey(cases.answers(), run.dataset.catalog.ids)
    return lambda: AnswerKey(cases)


def _changes(chosen: Sequence[Query]) -> dict[str, Change]:
    """What is spoilt, each in its own way; summaries only where there are any."""
    found: dict[str, Change] = {"shuffled": _shuffled}
    texts = [query.summary.text for query in chosen if query.summary and query.summary.text]
    if not texts:
        return found
    place = {query.id: at for at, query in enumerate(chosen)}

    def swapped(query: Query) -> Query:
        if query.summary is None:
            return query
        at = place[query.id]
        donors = (chosen[(at + step) % len(chosen)] for step in range(1, len(chosen)))
        for other in donors:
            text = other.summary.text if other.summary else ""
            if text and other.history.user != query.history.user:
                # How much it covers stays: layout chain tells the items since then.
                summary = dataclasses.replace(query.summary, text=text)
                return dataclasses.replace(query, summary=summary)
        return dataclasses.replace(query, summary=None)

    return found | {
        "swapped": swapped,
        "none": lambda query: dataclasses.replace(query, summary=None),
    }


def _shuffled(query: Query) -> Query:
    """The history's items in another order, at the same times; the summary stays as it is."""
    history = query.history
    draw = np.random.default_rng(derive_seed(0, "audit shuffle", query.id))
    order = draw.permutation(len(history)).tolist()
    items = [history.items[at] for at in order]
    times = (interaction.time for interaction in history.interactions)
    told = tuple(map(Interaction, items, times))
    return dataclasses.replace(query, history=UserHistory(history.user, told))


def _ranked(
    ranker: YesNoRanker, queries: Sequence[Query], progress: Progress
) -> Iterator[RankedList]:
    def skipped(query: Query, error: PromptError) -> None:
        progress.advance(1, "a prompt does not fit")

    for ranked in rank_what_fits(ranker, queries, skipped):
        progress.advance()
        yield ranked


def _values(key: AnswerKey, lists: Iterator[RankedList]) -> np.ndarray:
    """[queries, metrics], in the order of the queries' ids."""
    table = evaluate(key, {"x": lists}, METRICS).per_query.sort("query")
    return table.select(METRICS).to_numpy()


def _compared(
    name: str, kind: str, ranker: str, differences: np.ndarray, users: Sequence[str], whose: str
) -> Check:
    """The mean paired difference of each metric with its 95 % interval, as `trsr compare` tells it.

    Nothing is called shown before Holm's correction for the metrics.
    """
    found = compare_columns(differences, users)
    corrected = holm([one.p for one in found])
    numbers: dict[str, float | int | str | None] = {"ranker": ranker}
    told, shown = [], set()
    for metric, one, p in zip(METRICS, found, corrected, strict=True):
        numbers |= {metric: one.mean, f"{metric} low": one.low, f"{metric} high": one.high}
        numbers[f"{metric} p"] = p
        if one.mean is None or one.low is None or one.high is None or p is None:
            continue
        told.append(f"{metric} {one.mean:+.3f} [{one.low:+.3f}, {one.high:+.3f}], p = {p:.2g}")
        if p < LEVEL:
            shown.add("higher" if one.mean > 0 else "lower")
    numbers["queries"] = len(differences)
    if not told:
        return Check(name, "skipped", "all queries are of one user", numbers)
    seen = (
        f"{whose} against {AGAINST[kind]}, {ranker}, {len(differences)} queries: "
        f"{'; '.join(told)} (Holm)"
    )
    what = "the history's own order" if kind == "shuffled" else f"{whose} summary"
    if shown == {"higher"}:
        return Check(name, "ok", seen, numbers)
    if shown == {"lower"}:
        return Check(name, "warning", f"{seen}; {what} ranks lower", numbers)
    if shown:
        reason = f"{what} ranks higher by one metric and lower by the other"
        return Check(name, "warning", f"{seen}; {reason}", numbers)
    return Check(name, "warning", f"{seen}; no gain is shown, and no loss", numbers)
