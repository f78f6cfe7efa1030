"""Checks that need the ranking model: do the order of the history and the summary matter."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import polars as pl

from trsr.errors import PromptError
from trsr.experiments.audit.evidence import Check, Evidence, auc
from trsr.metrics.significance import LEVEL, compare_columns
from trsr.pipeline.artifacts import adapter_of, with_summary
from trsr.pipeline.ranking import RETRIEVED, read_retrieved
from trsr.progress import Progress
from trsr.rankers import PointwiseLLMRanker, rank_what_fits
from trsr.recommender import open_ranking_model
from trsr.settings import derive_seed
from trsr.storage import files
from trsr.storage.run_directory import RunDirectory
from trsr.types import Case, Interaction, Query, UserHistory

Change = Callable[[Query], Query]
NAMES = {
    "shuffled": "does the order of the history matter",
    "swapped": "does the user's own summary matter",
    "none": "does a summary matter",
}
AGAINST = {"shuffled": "a shuffled history", "swapped": "another user's", "none": "none"}


def model_checks(run: Evidence, queries: int, progress: Progress) -> Iterator[Check]:
    """Ranks some test queries as they are, and again with a part of the input changed.

    They are skipped without queries, and where no ranker of the run asks a language model.

    Yields:
        A warning where spoiling the input makes no difference that the queries can tell, or where
        the changed input ranks better.
    """
    used = run.config.rank.used
    why = "" if queries else "needs the language model: give --llm-queries N"
    if not run.config.rank.those("pointwise"):  # the run's figures come from no model
        why = f"no ranker of the run asks a language model ({', '.join(used)})"
    cases = [] if why else list(_cases(run, queries))
    if len(cases) < 2:
        for name in NAMES.values():
            yield Check(name, "skipped", why or "there are too few test queries")
        return
    adapter = adapter_of(RunDirectory(run.folder))
    ranker = PointwiseLLMRanker(*open_ranking_model(run.config, adapter))
    changes = _changes([case.query for case in cases])
    progress.begin(len(cases) * (1 + len(changes)), "queries")
    own = _aucs(ranker, cases, lambda query: query, progress)
    for kind, name in NAMES.items():
        if kind in changes:
            changed = _aucs(ranker, cases, changes[kind], progress)
            yield _compared(name, kind, "llm" if adapter else "llm_zero_shot", cases, own, changed)
        else:
            yield Check(name, "skipped", "the prompts hold no summaries")


def _cases(run: Evidence, most: int) -> Iterator[Case]:
    """Some test cases with their summaries; of full-catalog ones those whose target is proposed."""
    cases = run.cases["test"]
    names = sorted(cases.frame["query"], key=lambda name: derive_seed(0, "audit model", name))
    cases = cases.only(pl.col("query").is_in(names[:most]))
    if not cases.full:
        yield from (with_summary(case, run.summaries) for case in cases)
    elif files.is_file(run.folder / RETRIEVED):
        proposed = read_retrieved(run.folder / RETRIEVED)
        relevant = dict(cases.frame.select("query", "relevant").iter_rows())
        for name, history in cases.histories():
            right = frozenset(relevant[name]) & set(proposed[name])
            shown = tuple(map(run.dataset.catalog.__getitem__, proposed[name]))
            if right:
                yield Case(Query(name, history, shown, run.summaries.get(name)), right)


def _changes(queries: Sequence[Query]) -> dict[str, Change]:
    """What is changed; summaries only where there are any."""
    found: dict[str, Change] = {"shuffled": _shuffled}
    if not any(query.summary and query.summary.text for query in queries):
        return found
    place = {query.id: at for at, query in enumerate(queries)}

    def swapped(query: Query) -> Query:
        if query.summary is None:
            return query
        at = place[query.id]
        for other in (*queries[at + 1 :], *queries[:at]):
            if other.summary and other.summary.text and other.history.user != query.history.user:
                summary = dataclasses.replace(query.summary, text=other.summary.text)
                return dataclasses.replace(query, summary=summary)
        return dataclasses.replace(query, summary=None)

    return found | {
        "swapped": swapped,
        "none": lambda query: dataclasses.replace(query, summary=None),
    }


def _shuffled(query: Query) -> Query:
    """The history's items in another order, at the same times; the summary stays as it is."""
    history = query.history
    rng = np.random.default_rng(derive_seed(0, "audit shuffle", query.id))
    items = [history.items[at] for at in rng.permutation(len(history)).tolist()]
    times = (interaction.time for interaction in history.interactions)
    shuffled = UserHistory(history.user, tuple(map(Interaction, items, times)))
    return dataclasses.replace(query, history=shuffled)


def _aucs(
    ranker: PointwiseLLMRanker, cases: Sequence[Case], change: Change, progress: Progress
) -> dict[str, float]:
    """By query the chance that a target stands above another candidate; a tie counts half."""
    relevant = {case.query.id: case.relevant for case in cases}

    def skipped(query: Query, error: PromptError) -> None:
        progress.advance(1, "a prompt does not fit")

    found = {}
    for ranked in rank_what_fits(ranker, [change(case.query) for case in cases], skipped):
        right = np.array([entry.item in relevant[ranked.query] for entry in ranked])
        scores = np.array([entry.score for entry in ranked])
        if right.any() and not right.all():
            found[ranked.query] = auc(scores[right], scores[~right])
        progress.advance()
    return found


def _compared(
    name: str,
    kind: str,
    ranker: str,
    cases: Sequence[Case],
    own: Mapping[str, float],
    changed: Mapping[str, float],
) -> Check:
    """The mean paired difference in AUC with its 95 % interval, as `trsr compare` has it."""
    both = [case.query for case in cases if case.query.id in own and case.query.id in changed]
    apart = np.array([[own[query.id] - changed[query.id]] for query in both]).reshape(-1, 1)
    (one,) = compare_columns(apart, [query.history.user for query in both])
    numbers: dict[str, float | int | str | None] = {"ranker": ranker, "queries": len(both)}
    numbers |= {"auc": one.mean, "auc low": one.low, "auc high": one.high, "auc p": one.p}
    if one.mean is None or one.low is None or one.high is None or one.p is None:
        return Check(name, "skipped", "all queries are of one user", numbers)
    seen = f"own against {AGAINST[kind]}, {ranker}, {len(both)} queries: AUC {one.mean:+.3f} "
    seen += f"[{one.low:+.3f}, {one.high:+.3f}], p = {one.p:.2g}"
    what = "the history's own order" if kind == "shuffled" else "own summary"
    if one.p >= LEVEL:
        return Check(name, "warning", f"{seen}; no gain is shown, and no loss", numbers)
    if one.mean < 0:
        return Check(name, "warning", f"{seen}; {what} ranks lower", numbers)
    return Check(name, "ok", seen, numbers)
