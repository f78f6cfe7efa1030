"""Whether the history before the recent items, which a summary is made of, helps to rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from trsr.errors import ConfigError
from trsr.experiments.audit.evidence import Check, Evidence, State, auc
from trsr.metrics.significance import LEVEL, compare_columns
from trsr.rankers import FitData, FitOptions, Ranker, Resources
from trsr.rankers.baselines.bm25 import Bm25Ranker
from trsr.rankers.blend import Examples, fit_weights, standardized
from trsr.settings import derive_seed
from trsr.types import Case, Query, UserHistory

LOOKED_AT = 1000
"""Test queries that are looked at, sampled at random."""
FEWEST = 50
"""Fewer queries cannot fit the weights."""
FOLDS = 5
L2 = 0.01
"""The blend's penalty."""
LITTLE = 0.02
"""Of AUC: where the interval ends below this, a summary can add little."""
NAME = "do the words of older items matter"

Array = npt.NDArray[np.float64]


def history_signal(run: Evidence) -> Check:
    """Whether older items tell targets from negatives where the recent ones do not.

    The prompts list the recent items one by one; a summary is made of those before them. BM25
    over the texts ranks by the recent items alone, and by the older ones. What the older ones add
    is the AUC of the blend of both less that of the recent alone. The weights (a conditional
    logit, as the ranker `blend` has) are fitted on other users, fold by fold. That is no strict
    bound for a summary, but shows how much there is to gain.
    """
    recent = run.config.prompts.recent
    cases, reason = _longer(run, recent)
    if reason:
        return Check(NAME, "skipped", reason)
    try:
        ranker = _bm25(run)
    except ConfigError as error:  # the extra is not installed
        return Check(NAME, "skipped", str(error))
    parts = [_scores(ranker, cases, -recent, None), _scores(ranker, cases, 0, -recent)]
    examples = Examples.of(cases, parts)
    base, both = _aucs(examples, examples.scores[:, :, 0]), _aucs(examples, _blended(examples))
    (test,) = compare_columns((both - base)[:, None], [case.query.history.user for case in cases])
    numbers = {"auc": float(base.mean()), "gain": test.mean, "low": test.low, "high": test.high}
    numbers |= {"p": test.p, "queries": test.queries}
    if test.mean is None or test.low is None or test.high is None or test.p is None:
        return Check(NAME, "skipped", "all queries are of one user", numbers)
    last = "the last item" if recent == 1 else f"the last {recent} items"
    seen = f"AUC {base.mean():.3f} by {last} ({test.queries:,} queries); those before add "
    seen += f"{test.mean:+.3f} [{test.low:+.3f}, {test.high:+.3f}], p = {test.p:.2g}"
    if test.p < LEVEL and test.mean > 0:
        return Check(NAME, "ok", seen, numbers)
    state: State = "warning" if run.config.summarized else "ok"
    why = "no gain is shown; more test queries (data.test_cases) would show more"
    if test.high < LITTLE:
        why = "no gain is shown, so a summary can add little"
    return Check(NAME, state, f"{seen}: {why}", numbers)


def _longer(run: Evidence, recent: int) -> tuple[list[Case], str]:
    """Sampled test cases with more history than its recent items; or why there are none."""
    cases = run.cases["test"].only(pl.col("items").list.len() > recent)
    if not recent:
        return [], "the prompts list no recent items (prompts.recent), so all are before them"
    if cases.full:
        return [], "the candidates are the whole catalog; audit a run with sampled candidates"
    names = sorted(cases.frame["query"], key=lambda name: derive_seed(0, "audit older", name))
    found = [
        case
        for case in cases.only(pl.col("query").is_in(names[:LOOKED_AT]))
        if len(case.relevant) < len(case.query.candidates)
    ]
    if len(found) < FEWEST:
        return [], (
            f"the prompts list the last {recent} one by one, and {len(found):,} test queries have "
            f"more history than that: too few, {FEWEST} are needed"
        )
    return found, ""


def _bm25(run: Evidence) -> Ranker:
    """Each item of the history counts alike, as in a profile.

    Raises:
        ConfigError: If its library is not installed.
    """
    catalog, prompts = run.dataset.catalog, run.config.prompts
    texts = {"text_fields": prompts.fields, "text_words": prompts.words}
    settings = run.config.rank.model_copy(update=texts)
    alike = settings.table("bm25").model_copy(update={"last": (0,), "decay": (1.0,)})
    ranker = Bm25Ranker(alike, Resources(catalog, settings), "bm25")
    ranker.fit(FitData(catalog, run.dataset.interactions), FitOptions())
    return ranker


def _scores(
    ranker: Ranker, cases: Sequence[Case], start: int, end: int | None
) -> Mapping[str, Array]:
    """The candidates' standardized scores by query id, from a part of each history."""
    found = {}
    for case in cases:
        query = case.query
        part = UserHistory(query.history.user, query.history.interactions[start:end])
        (ranked,) = ranker.rank([Query(query.id, part, query.candidates)])
        scores = {entry.item: entry.score for entry in ranked}
        found[query.id] = standardized(np.array([scores[item.id] for item in query.candidates]))
    return found


def _blended(examples: Examples) -> Array:
    """The blended scores of all queries, the weights fitted on the other folds' users."""
    users = sorted(set(examples.users), key=lambda user: derive_seed(0, "audit folds", user))
    fold_of = {user: place % FOLDS for place, user in enumerate(users)}
    fold = np.array([fold_of[user] for user in examples.users])
    sums = np.zeros(examples.real.shape)
    for n in range(FOLDS):
        if (fold == n).any() and (fold != n).any():
            sums[fold == n] = examples.scores[fold == n] @ fit_weights(examples[fold != n], L2)
    return sums


def _aucs(examples: Examples, scores: Array) -> Array:
    """[queries] the AUC of each."""
    relevant = examples.relevant > 0
    rows = zip(scores, examples.real, relevant, strict=True)
    return np.array([auc(each[real & right], each[real & ~right]) for each, real, right in rows])
