"""Checks for what tells targets without any taste: ids, order, times, popularity, place, ties."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from scipy import special

from trsr.errors import DataError
from trsr.experiments.audit.evidence import Check, Evidence, State, auc, counted
from trsr.experiments.audit.texts import ids_in_prompt
from trsr.metrics import AnswerKey
from trsr.rankers.settings import RankSettings
from trsr.settings import derive_seed

LOOKED_AT = 5000
"""Test queries whose shortcuts are measured, sampled at random."""
NEGATIVES = 100
"""Sampled unseen items that stand for the negatives where the candidates are the whole catalog."""
STRONG = 0.6
"""The AUC above which a shortcut is reported, if it is also over 3 standard errors above chance."""
BIASED = 0.001
"""A bias of places that chance makes less often than this is a finding."""
TIED = 0.05
TIED_MOSTLY = 0.5

Values = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]
QueryRows = tuple[Rows, Rows]
"""A query as catalog rows: the candidates, the target first; and the history, oldest first."""
Score = Callable[[Values, Values], Values]
"""(values of the candidates, values of the history, oldest first) → a score for each candidate."""
Found = tuple[str, float, float | None]
"""What gives targets away, its AUC and standard error."""


def nearest(candidates: Values, history: Values) -> Values:
    """Higher, the nearer the candidate is to any of the history."""
    apart: Values = np.abs(candidates[:, None] - history[None, :]).min(axis=1)
    return -apart


def centered(candidates: Values, history: Values) -> Values:
    """Higher, the nearer the candidate is to the history's mean."""
    return nearest(candidates, history.mean(keepdims=True))


def to_latest(candidates: Values, history: Values) -> Values:
    """Higher, the nearer the candidate is to the history's latest."""
    return nearest(candidates, history[-1:])


def itself(candidates: Values, history: Values) -> Values:
    """The value as it is; low may give the target away as well as high."""
    return candidates


def leakage(run: Evidence) -> Iterator[Check]:
    """Whether ids, catalog order, first times or popularity tell targets from negatives."""
    queries = list(_query_rows(run))
    ids = run.dataset.catalog.ids
    numbers = numbers_of(ids)
    name = "item ids give the target away"
    if numbers is None:
        yield Check(name, "skipped", "item ids are not numbers")
    else:
        scores = {"distance to the nearest id": nearest, "distance to the mean id": centered}
        strongest = _strongest(queries, numbers, scores)
        if ids_in_prompt(run):
            yield _judged(name, strongest, "the prompts show ids", "finding")
        else:
            yield _judged(name, strongest)
    rows = np.arange(len(ids), dtype=np.float64)
    scores = {"distance to the nearest row": nearest, "the row itself": itself}
    name = "the catalog's order gives the target away"
    yield _judged(name, _strongest(queries, rows, scores))
    first, counts = _times_and_counts(run)
    name = "items' first times give the target away"
    if run.dataset.timed:
        scores = {"distance to the latest": to_latest, "the time itself": itself}
        yield _judged(name, _strongest(queries, first, scores))
    else:
        yield Check(name, "skipped", "the data has no times")
    found = _strongest(queries, counts, {"interactions for fitting": itself})
    advice = "compare every ranker with `popular`, or sample negatives by popularity"
    yield _judged("items' popularity gives the target away", found, advice)


def numbers_of(ids: Sequence[str]) -> Values | None:
    """Item ids as numbers: digits after a common beginning, or capitals and digits of one length.

    The second are Amazon's: in base 36 they rise with the time of their making. None: no numbers.
    """
    found = [re.fullmatch(r"(\D*)(\d{1,15})", one) for one in ids]
    if all(found) and len({match[1] for match in found if match}) == 1:
        return np.array([float(match[2]) for match in found if match])
    if len({len(one) for one in ids}) == 1 and all(
        re.fullmatch(r"[0-9A-Z]{2,12}", one) for one in ids
    ):
        return np.array([float(int(one, 36)) for one in ids])
    return None


def _query_rows(run: Evidence) -> Iterator[QueryRows]:
    frame = run.frame("test")
    row_of = {item: row for row, item in enumerate(run.dataset.catalog.ids)}
    seeds = [derive_seed(0, "audit", query) for query in frame["query"]]
    frame = frame[sorted(sorted(range(len(seeds)), key=seeds.__getitem__)[:LOOKED_AT])]
    columns = frame.select("query", "items", "candidates", "relevant")
    for query, items, candidates, relevant in columns.iter_rows():
        right = [row_of[item] for item in relevant if item in row_of]
        others = [row_of[item] for item in candidates if item not in relevant and item in row_of]
        if not candidates:
            others = _unseen(query, len(row_of), {row_of[item] for item in (*items, *relevant)})
        if right and others and items:
            yield np.array([right[0], *others]), np.array([row_of[item] for item in items])


def _unseen(query: str, size: int, seen: set[int]) -> list[int]:
    """Rows of sampled unseen items, to stand for a query's negatives; `size` items in all."""
    rng = np.random.default_rng(derive_seed(0, "audit negatives", query))
    rows = rng.choice(size, size=min(size, NEGATIVES + len(seen)), replace=False)
    return [int(row) for row in rows if int(row) not in seen][:NEGATIVES]


def _times_and_counts(run: Evidence) -> tuple[Values, Values]:
    """Each item's first time among the interactions for fitting (never: after all), and count."""
    grouped = run.dataset.interactions.group_by("item")
    counts = dict(grouped.len().iter_rows())
    first = dict(grouped.min().select("item", "time").iter_rows()) if run.dataset.timed else {}
    never = max(first.values(), default=0.0) + 1.0
    ids = run.dataset.catalog.ids
    times = np.array([first.get(item, never) for item in ids])
    return times, np.array([float(counts.get(item, 0)) for item in ids])


def _strongest(queries: Sequence[QueryRows], values: Values, scores: Mapping[str, Score]) -> Found:
    """Which score gives targets away most."""
    found = []
    for name, score in scores.items():
        scored = [score(values[shown], values[history]) for shown, history in queries]
        each = np.array([auc(one[:1], one[1:]) for one in scored])
        mean = float(each.mean()) if len(each) else 0.5
        if score is itself:
            mean = max(mean, 1 - mean)
        error = float(each.std(ddof=1)) / math.sqrt(len(each)) if len(each) > 1 else None
        found.append((name, mean, error))
    return max(found, key=lambda one: one[1])


def _judged(
    name: str,
    strongest: Found,
    advice: str = "any model given it could use it",
    state: State = "warning",
) -> Check:
    feature, mean, error = strongest
    numbers: dict[str, float | str | None] = {"feature": feature, "auc": mean, "se": error}
    if error is None:
        return Check(name, "skipped", "there are too few test queries", numbers)
    seen = f"AUC {mean:.3f} ±{error:.3f} ({feature})"
    if mean - 0.5 <= 3 * error:
        return Check(name, "ok", f"{seen}: not shown to differ from chance", numbers)
    if mean <= STRONG:
        return Check(name, "ok", f"{seen}: weak; a warning above {STRONG}", numbers)
    return Check(name, state, f"{seen}: a known shortcut in this data set; {advice}", numbers)


def places(run: Evidence) -> Check:
    """Whether the target stands anywhere among its candidates, each place alike (chi-square)."""
    name = "place of the target among the candidates"
    by_length: dict[int, list[int]] = {}
    for candidates, target in run.all_cases.select("candidates", "target").iter_rows():
        if target in candidates:
            by_length.setdefault(len(candidates), []).append(candidates.index(target))
    if not by_length:
        full = "the candidates are the whole catalog"
        return Check(name, "skipped", full if len(run.all_cases) else "there are no cases")
    total, freedom = 0.0, 0
    for length, found in by_length.items():
        bins = min(length, len(found) // 5)  # places are joined until 5 are expected in each
        if bins >= 2:
            cells = np.arange(length) * bins // length
            expected = np.bincount(cells) * len(found) / length
            observed = np.bincount(cells[np.array(found)], minlength=bins)
            total += float(((observed - expected) ** 2 / expected).sum())
            freedom += bins - 1
    if not freedom:
        cases = sum(map(len, by_length.values()))
        return Check(name, "skipped", f"{cases:,} cases are too few")
    chance = float(special.chdtrc(freedom, total))
    numbers = {"chi_square": total, "freedom": freedom, "p": chance}
    seen = f"chi-square {total:.1f} with {freedom} degrees of freedom, p = {chance:.2g}"
    if chance < BIASED:
        return Check(name, "finding", f"{seen}: the place gives the target away", numbers)
    return Check(name, "ok", seen, numbers)


def ranked_lists(run: Evidence) -> Iterator[Check]:
    """Whether the ranked lists answer the cases, and how often scores leave the order open."""
    name = "ranked lists answer the test cases"
    cases = run.cases["test"]
    if not run.rankings or not len(cases):
        why = "there are no test cases" if run.rankings else "nothing is ranked yet"
        yield Check(name, "skipped", why)
        return
    try:
        key = AnswerKey(cases.frame, run.dataset.catalog.ids)
        ties = [_ties(key, ranker, run) for ranker in run.rankings]
    except (DataError, ValueError) as error:
        yield Check(name, "finding", str(error))
        return
    yield Check(name, "ok", f"{len(run.rankings)} rankers, {len(key):,} queries")
    yield from ties


def _ties(key: AnswerKey, ranker: str, run: Evidence) -> Check:
    name = f"ties of {ranker}"
    tied = answered = 0
    for batch in key.check(ranker, run.rankings[ranker].frame):
        tied += int(batch.ranks.ambiguous.sum())
        answered += len(batch.rows)
    if not answered:
        return Check(name, "finding", "it has no result for any query")
    share = tied / answered
    seen = f"the target ties in {counted(tied, answered, 'queries')}"
    state: State = "ok"
    if share >= TIED_MOSTLY and RankSettings().traits(ranker).uses_llm:
        state, seen = "finding", f"{seen}: the scores say little (see model.dtype)"
    elif share >= TIED:
        state, seen = "warning", f"{seen}; each counts as its expected value"
    return Check(name, state, seen, {"share": share})
