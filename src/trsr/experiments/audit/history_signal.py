"""Whether the history before the recent items, which a summary is made of, tells of targets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from trsr.errors import ConfigError
from trsr.experiments.audit.evidence import Check, Evidence, State
from trsr.metrics.significance import LEVEL, Difference, compare_columns, holm
from trsr.rankers import FitData, FitOptions, Ranker, Resources
from trsr.rankers.baselines.bm25 import Bm25Ranker
from trsr.rankers.baselines.item_knn import ItemKnnConfig, ItemKnnRanker
from trsr.rankers.blend import Examples, fit_weights, standardized
from trsr.settings import derive_seed
from trsr.types import Case, Query, RankedList, UserHistory

LOOKED_AT = 1000
"""Test queries that are looked at, drawn at random."""
FEWEST = 50
"""Fewer queries teach no weights."""
FOLDS = 5
L2 = 0.01
"""The blend's penalty."""
LITTLE = 0.02
"""Of AUC: what surely gains less than this has little to tell."""
SHRINKAGE = 10.0
"""Of co-occurrence."""
NAMES = {
    "words": "do the words of older items matter",
    "co-occurrence": "do older items matter to co-occurrence",
}

Array = npt.NDArray[np.float64]


def history_signal(run: Evidence) -> Iterator[Check]:
    """Whether older items tell targets from negatives where the recent ones do not.

    The prompts list the recent items one by one; a summary is made of those before them. Two cheap
    rankers, BM25 over the texts and co-occurrence, rank by the recent items alone and by all
    before them. What the older ones add is the AUC of the blend of both less that of the recent
    alone. The weights (a conditional logit, as the ranker `blend` has) are learned on other users,
    fold by fold. That bounds no summary strictly, but it shows how much there is to tell.
    """
    recent = run.config.prompts.recent
    cases, reason = _longer(run, recent)
    found: dict[str, tuple[Array, Array]] = {}
    skipped = dict.fromkeys(NAMES, reason) if reason else {}
    for view in () if reason else NAMES:
        try:
            found[view] = _aucs(_ranker(run, view), cases, recent)
        except ConfigError as error:  # an extra is not installed
            skipped[view] = str(error)
    users = [case.query.history.user for case in cases]
    tests = {view: compare_columns((b - a)[:, None], users)[0] for view, (a, b) in found.items()}
    corrected = dict(zip(tests, holm([one.p for one in tests.values()]), strict=True))
    for view, name in NAMES.items():
        if view in skipped:
            yield Check(name, "skipped", skipped[view])
            continue
        base = float(found[view][0].mean())
        yield _judged(run, name, base, tests[view], corrected[view])


def _judged(run: Evidence, name: str, base: float, test: Difference, p: float | None) -> Check:
    numbers = {"auc": base, "gain": test.mean, "low": test.low, "high": test.high, "p": p}
    if test.mean is None or test.low is None or test.high is None or p is None:
        return Check(name, "skipped", "all queries are of one user", numbers)
    numbers["queries"] = test.queries
    recent = run.config.prompts.recent
    last = "the last item" if recent == 1 else f"the last {recent} items"
    seen = f"AUC {base:.3f} by {last} ({test.queries:,} queries); those before add "
    seen += f"{test.mean:+.3f} [{test.low:+.3f}, {test.high:+.3f}], p = {p:.2g} (Holm)"
    if p < LEVEL and test.mean > 0:
        return Check(name, "ok", seen, numbers)
    state: State = "warning" if run.config.summarized else "ok"
    why = "no gain is shown; more test queries (data.test_cases) would tell more surely"
    if test.high < LITTLE:
        why = "no gain is shown, so there is little for a summary to tell"
    return Check(name, state, f"{seen}: {why}", numbers)


def _longer(run: Evidence, recent: int) -> tuple[list[Case], str]:
    """Test cases with more history than its recent items, some drawn at random; or why none are."""
    cases = run.cases["test"].only(pl.col("items").list.len() > recent)
    if not recent:
        return [], "the prompts tell no recent items (prompts.recent), so all are before them"
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
            f"the prompts tell the last {recent} one by one, and {len(found):,} test queries have "
            f"more history than that: too few, {FEWEST} are needed"
        )
    return found, ""


def _ranker(run: Evidence, view: str) -> Ranker:
    """Each item of the history counts alike, as in a profile.

    Raises:
        ConfigError: If its library is not installed.
    """
    catalog = run.dataset.catalog
    ranker: Ranker
    if view == "co-occurrence":
        one = ItemKnnConfig(shrinkage=(SHRINKAGE,), popularity=(0.0,))
        ranker = ItemKnnRanker(one, Resources(catalog), "item_knn")
    else:
        prompts = run.config.prompts
        texts = {"text_fields": prompts.fields, "text_words": prompts.words}
        settings = run.config.rank.model_copy(update=texts)
        alike = settings.table("bm25").model_copy(update={"last": (0,), "decay": (1.0,)})
        ranker = Bm25Ranker(alike, Resources(catalog, settings), "bm25")
    ranker.fit(FitData(catalog, run.dataset.interactions), FitOptions())
    return ranker


def _aucs(ranker: Ranker, cases: Sequence[Case], recent: int) -> tuple[Array, Array]:
    """AUC of each query by the recent items, and by them and those before."""
    last = _ranked(ranker, cases, -recent, None)
    before = _ranked(ranker, cases, 0, -recent)
    examples = Examples.of(cases, [_standardized(cases, one) for one in (last, before)])
    return _auc(examples, examples.scores[:, :, 0]), _auc(examples, _blended(examples))


def _ranked(
    ranker: Ranker, cases: Sequence[Case], start: int, end: int | None
) -> Mapping[str, RankedList]:
    """The lists by query id, of a part of each history."""
    found = {}
    for case in cases:
        query = case.query
        part = UserHistory(query.history.user, query.history.interactions[start:end])
        asked = Query(query.id, part, query.candidates)
        (found[query.id],) = ranker.rank([asked])
    return found


def _blended(examples: Examples) -> Array:
    """The blended scores of all queries, the weights learned on the other folds' users."""
    users = sorted(set(examples.users), key=lambda user: derive_seed(0, "audit folds", user))
    fold_of = {user: place % FOLDS for place, user in enumerate(users)}
    fold = np.array([fold_of[user] for user in examples.users])
    sums = np.zeros(examples.real.shape)
    for n in range(FOLDS):
        if (fold == n).any() and (fold != n).any():
            sums[fold == n] = examples.scores[fold == n] @ fit_weights(examples[fold != n], L2)
    return sums


def _standardized(cases: Sequence[Case], lists: Mapping[str, RankedList]) -> Mapping[str, Array]:
    """The candidates' standardized scores, by query id."""
    found = {}
    for case in cases:
        query = case.query
        scores = {entry.item: entry.score for entry in lists[query.id]}
        found[query.id] = standardized(np.array([scores[item.id] for item in query.candidates]))
    return found


def _auc(examples: Examples, scores: Array) -> Array:
    """[queries] the chance that a right item stands above a wrong one; a tie counts half."""
    found = np.zeros(len(scores))
    for row, (each, real) in enumerate(zip(scores, examples.real, strict=True)):
        right = each[real & (examples.relevant[row] > 0)][:, None]
        wrong = each[real & (examples.relevant[row] == 0)]
        found[row] = (right > wrong).mean() + (right == wrong).mean() / 2
    return found
