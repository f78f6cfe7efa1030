"""Checks for what tells targets without any taste: ids, order, times, told numbers, place, ties."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trsr.audit.evidence import Check, Evidence, State, counted
from trsr.audit.numbers import numbers_of, told_numbers
from trsr.audit.texts import ids_in_prompt
from trsr.errors import DataError
from trsr.evaluate import FullAnswerKey
from trsr.evaluate.answers import AnswerKey
from trsr.rank.settings import RankSettings
from trsr.settings import derive_seed

LOOKED_AT = 5000
"""Test queries whose shortcuts are measured, drawn by lot."""
DRAWN = 100
"""Unmet items that stand for the negatives where the candidates are the whole catalogue."""
LAST = 3
"""The fewest last items of a history that told numbers are compared with."""
STRONG = 0.6
"""The AUC above which a shortcut is told, if it is also over 3 standard errors above chance."""
BIASED = 0.001
"""A bias of places that chance makes less often than this is a finding."""
TIED = 0.05
TIED_MOSTLY = 0.5

Values = npt.NDArray[np.float64]
Score = Callable[[Values, Values], Values]
"""(values of the candidates, values of the history, oldest first) → a score for each candidate."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """One query as catalogue rows: the target stands first among the candidates."""

    candidates: npt.NDArray[np.int64]
    history: npt.NDArray[np.int64]


def nearest(candidates: Values, history: Values) -> Values:
    """Higher, the nearer the candidate is to any of the history."""
    apart: Values = np.abs(candidates[:, None] - history[None, :]).min(axis=1)
    return -apart


def centred(candidates: Values, history: Values) -> Values:
    """Higher, the nearer the candidate is to the history's mean."""
    apart: Values = np.abs(candidates - history.mean())
    return -apart


def itself(candidates: Values, history: Values) -> Values:
    """The value as it is; low may give the target away as well as high."""
    return candidates


def to_latest(candidates: Values, history: Values) -> Values:
    """Higher, the nearer the candidate is to the history's latest."""
    apart: Values = np.abs(candidates - history[-1])
    return -apart


def to_last(most: int) -> Score:
    """Higher, the nearer the candidate is to any of the history's last `most`.

    Where a value is not known (NaN) a candidate scores as the middle one does, so that lacking it
    tells nothing, and an item of the history is passed over.
    """

    def score(candidates: Values, history: Values) -> Values:
        last = history[-most:]
        last = last[~np.isnan(last)]
        known = ~np.isnan(candidates)
        if not len(last) or not known.any():
            return np.zeros(len(candidates))
        scores = nearest(candidates, last)
        scores[~known] = np.median(scores[known])
        return scores

    return score


def shortcuts(run: Evidence) -> Iterator[Check]:
    """Whether ids, catalogue order, first times or told numbers tell targets from negatives."""
    asked = list(_asked(run))
    ids = run.dataset.catalog.ids
    numbers = numbers_of(ids)
    name = "item ids give the target away"
    if numbers is None:
        yield Check(name, "skipped", "item ids are not numbers")
    else:
        scores = {"distance to the nearest id": nearest, "distance to the mean id": centred}
        strongest = _strongest(asked, numbers, scores)
        if ids_in_prompt(run):
            yield _judged(name, strongest, "the prompts show ids", "finding", shown=True)
        else:
            yield _judged(name, strongest)
    rows = np.arange(len(ids), dtype=np.float64)
    scores = {"distance to the nearest row": nearest, "the row itself": itself}
    name = "the catalogue's order gives the target away"
    yield _judged(name, _strongest(asked, rows, scores))
    name = "items' first times give the target away"
    if run.dataset.timed:
        scores = {"distance to the latest": to_latest, "the time itself": itself}
        yield _judged(name, _strongest(asked, _first_times(run), scores))
    else:
        yield Check(name, "skipped", "the data has no times")
    yield _told(run, asked)


def _told(run: Evidence, asked: Sequence[_Asked]) -> Check:
    """Unlike ids and times, a number in a told text reaches the model: a year, a size, a price."""
    name = "numbers in the told texts give the target away"
    most = max(run.config.prompts.recent, LAST)
    rows = {int(row) for one in asked for row in (*one.candidates, *one.history[-most:])}
    if not rows:
        return Check(name, "skipped", "there are no test queries")
    found = []
    for what, values in told_numbers(run.config.prompts, run.dataset.catalog, sorted(rows)):
        feature = f"nearest {what} to the last {most} items"
        found.append(_strongest(asked, values, {feature: to_last(most)}))
    if not found:
        return Check(name, "skipped", "no told field has a number in 90 % of the items")
    advice = "the prompts tell it, so what a model gains may come from there, not from taste"
    return _judged(name, max(found, key=lambda one: one[1]), advice, shown=True)


def _asked(run: Evidence) -> Iterator[_Asked]:
    frame = run.frame("test")
    row_of = {item: row for row, item in enumerate(run.dataset.catalog.ids)}
    if len(frame) > LOOKED_AT:
        lots = sorted(range(len(frame)), key=lambda at: derive_seed(0, "audit", frame["query"][at]))
        frame = frame[sorted(lots[:LOOKED_AT])]
    columns = frame.select("query", "items", "candidates", "relevant")
    for query, items, candidates, relevant in columns.iter_rows():
        right = [row_of[item] for item in relevant if item in row_of]
        others = [row_of[item] for item in candidates if item not in relevant and item in row_of]
        if not candidates:
            others = drawn(query, len(row_of), {row_of[item] for item in (*items, *relevant)})
        if right and others and items:
            history = np.array([row_of[item] for item in items])
            yield _Asked(np.array([right[0], *others]), history)


def drawn(query: str, size: int, met: set[int]) -> list[int]:
    """Rows of unmet items, to stand for a query's negatives; of `size` items, by lot."""
    draw = np.random.default_rng(derive_seed(0, "audit negatives", query))
    rows = draw.choice(size, size=min(size, DRAWN + len(met)), replace=False)
    return [int(row) for row in rows if int(row) not in met][:DRAWN]


def _first_times(run: Evidence) -> Values:
    """When each item was first taken, among the interactions for fitting; never: after all."""
    grouped = run.dataset.interactions.group_by("item").min()
    first = dict(grouped.select("item", "time").iter_rows())
    latest = max(first.values(), default=0.0) + 1.0
    return np.array([first.get(item, latest) for item in run.dataset.catalog.ids])


def _strongest(
    asked: Sequence[_Asked], values: Values, scores: Mapping[str, Score]
) -> tuple[str, float, float | None]:
    """Which score tells targets best: its name, AUC and standard error."""
    found = []
    for name, score in scores.items():
        each = np.array([_auc(score(values[one.candidates], values[one.history])) for one in asked])
        mean = float(each.mean()) if len(each) else 0.5
        if score is itself:
            mean = max(mean, 1 - mean)
        error = float(each.std(ddof=1)) / math.sqrt(len(each)) if len(each) > 1 else None
        found.append((name, mean, error))
    return max(found, key=lambda one: one[1])


def _auc(scores: Values) -> float:
    """The chance that the first stands above another one; a tie counts half."""
    target, others = scores[0], scores[1:]
    return float((target > others).mean() + (target == others).mean() / 2)


def _judged(
    name: str,
    strongest: tuple[str, float, float | None],
    advice: str = "any model given it could use it",
    state: State = "warning",
    *,
    shown: bool = False,
) -> Check:
    feature, auc, error = strongest
    numbers: dict[str, float | str | None] = {"feature": feature, "auc": auc, "se": error}
    numbers["shown"] = shown
    if error is None:
        return Check(name, "skipped", "there are too few test queries", numbers)
    seen = f"AUC {auc:.3f} ±{error:.3f} ({feature})"
    if auc - 0.5 <= 3 * error:
        return Check(name, "ok", f"{seen}: not shown to differ from chance", numbers)
    if auc <= STRONG:
        return Check(name, "ok", f"{seen}: weak; a warning above {STRONG}", numbers)
    return Check(name, state, f"{seen}: a known shortcut in this data set; {advice}", numbers)


def places(run: Evidence) -> Check:
    """Whether the target stands anywhere among its candidates, each place alike (chi-square)."""
    name = "place of the target among the candidates"
    total, freedom, cases = 0.0, 0, 0
    for split in run.cases:
        for row in run.frame(split).select("candidates", "target").iter_rows():
            cases += bool(row[0])
        more, degrees = _split_places(run, split)
        total, freedom = total + more, freedom + degrees
    if not cases:
        whole = "the candidates are the whole catalogue"
        return Check(name, "skipped", whole if len(run.all_cases) else "there are no cases")
    if not freedom:
        return Check(name, "skipped", f"{cases:,} cases are too few to tell")
    chance = chi_square_tail(total, freedom)
    numbers = {"chi_square": total, "freedom": freedom, "p": chance}
    seen = f"chi-square {total:.1f} with {freedom} degrees of freedom, p = {chance:.2g}"
    if chance < BIASED:
        return Check(name, "finding", f"{seen}: the place gives the target away", numbers)
    return Check(name, "ok", seen, numbers)


def _split_places(run: Evidence, split: str) -> tuple[float, int]:
    """Sum of chi-squares over the lengths of lists; places are joined until 5 are expected."""
    by_length: dict[int, list[int]] = {}
    for candidates, target in run.frame(split).select("candidates", "target").iter_rows():
        if target in candidates:
            by_length.setdefault(len(candidates), []).append(candidates.index(target))
    total, freedom = 0.0, 0
    for length, found in by_length.items():
        bins = min(length, len(found) // 5)
        if bins < 2:
            continue
        cells = np.arange(length) * bins // length
        expected = np.bincount(cells) * len(found) / length
        observed = np.bincount(cells[np.array(found)], minlength=bins)
        total += float(((observed - expected) ** 2 / expected).sum())
        freedom += bins - 1
    return total, freedom


def chi_square_tail(value: float, freedom: int) -> float:
    """The chance of a chi-square at least this large, within a few per cent of it.

    The cube root of chi-square over its degrees of freedom is nearly normal with mean 1 − 2/(9f)
    and variance 2/(9f) (Wilson and Hilferty, PNAS 17, 1931).
    """
    spread = 2 / (9 * freedom)
    z = (math.cbrt(value / freedom) - (1 - spread)) / math.sqrt(spread)
    return math.erfc(z / math.sqrt(2)) / 2


def ranked_lists(run: Evidence) -> Iterator[Check]:
    """Whether the ranked lists answer the cases, and how often scores leave the order open."""
    name = "ranked lists answer the test cases"
    if not run.rankings:
        yield Check(name, "skipped", "nothing is ranked yet")
        return
    cases = run.cases["test"]
    if not len(cases):
        yield Check(name, "skipped", "there are no test cases")
        return
    key: AnswerKey = AnswerKey(())
    ties: list[Check] = []
    try:
        ids = run.dataset.catalog.ids
        key = FullAnswerKey(cases.answers(), ids) if cases.full else AnswerKey(cases)
        ties = [_ties(key, ranker, run) for ranker in run.rankings]
    except (DataError, ValueError) as error:
        yield Check(name, "finding", str(error))
        return
    yield Check(name, "ok", f"{len(run.rankings)} rankers, {len(key):,} queries")
    yield from ties


def _ties(key: AnswerKey, ranker: str, run: Evidence) -> Check:
    name = f"ties of {ranker}"
    tied = answered = 0
    for batch in key.check(ranker, run.rankings[ranker]):
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
