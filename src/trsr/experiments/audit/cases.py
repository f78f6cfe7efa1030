"""Checks of the cases, the files and the lists: answers in sight, later events, shortcuts."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy import special

from trsr.errors import DataError
from trsr.experiments.audit.evidence import Check, Evidence, State, auc, counted
from trsr.experiments.audit.texts import ids_in_prompt
from trsr.metrics import AnswerKey
from trsr.pipeline.artifacts import SUMMARIES
from trsr.rankers.settings import RankSettings
from trsr.settings import derive_seed

LATER = 0.01
"""The share of the fitting data after a test query, above which it is a warning."""
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
QueryRows = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]
"""A query as catalog rows: the candidates, the target first; and the history, oldest first."""


def target_in_history(run: Evidence) -> Check:
    """Sampled negatives are never in the history, so a target there stands out."""
    name = "target in the history"
    if run.all_cases.is_empty():
        return Check(name, "skipped", "there are no cases")
    hit = pl.col("items").list.set_intersection("relevant").list.len() > 0
    found = run.all_cases.group_by("split", maintain_order=True).agg(hit.sum().alias("hits"))
    hits: dict[str, int] = dict(found.iter_rows())
    seen = f"in {counted(sum(hits.values()), len(run.all_cases), 'cases')}"
    if not sum(hits.values()):
        return Check(name, "ok", seen, hits)
    if run.config.data.candidates == "given":
        return Check(name, "warning", f"{seen}; given lists may hold other seen items too", hits)
    why = "negatives are never seen items, so the history gives these answers away; prepare with "
    return Check(name, "finding", f"{seen}: {why}data.drop_repeats = true", hits)


def candidates_once(run: Evidence) -> Check:
    """Each candidate stands once, and the answer is among them."""
    twice = pl.col("candidates").list.n_unique() < pl.col("candidates").list.len()
    lacking = pl.col("relevant").list.set_difference("candidates").list.len() > 0
    return _listed(
        run, "candidates, each once", {"with one twice": twice, "without the answer": lacking}
    )


def negatives_seen(run: Evidence) -> Check:
    """A negative that the user has seen can be ruled out by the history, or is a positive."""
    name = "negatives in the history"
    if run.config.data.candidates == "given":
        return Check(name, "skipped", "the candidates are the data's own lists")
    wrong = pl.col("candidates").list.set_difference("relevant").list.set_intersection("items")
    return _listed(run, name, {"with a seen negative": wrong.list.len() > 0})


def _listed(run: Evidence, name: str, faults: dict[str, pl.Expr]) -> Check:
    """A finding where any case that lists candidates has one of the faults."""
    cases = run.all_cases.filter(pl.col("candidates").list.len() > 0)
    if cases.is_empty():
        full = "the candidates are the whole catalog"
        return Check(name, "skipped", full if len(run.all_cases) else "there are no cases")
    hits = {what: int(cases.select(fault.sum()).item()) for what, fault in faults.items()}
    seen = ", ".join(f"{number:,} {what}" for what, number in hits.items())
    seen = f"of {len(cases):,} cases {seen}"
    return Check(name, "finding" if any(hits.values()) else "ok", seen, hits)


def summary_covers(run: Evidence) -> Check:
    """A summary has read interactions of its own query's history, and no more."""
    name = "summaries that saw later events"
    if not run.summaries:
        return Check(name, "skipped", "the run has no summaries")
    columns = run.all_cases.select("query", "user", pl.col("items").list.len())
    known = {query: (user, length) for query, user, length in columns.iter_rows()}
    past = foreign = 0
    for query, summary in run.summaries.items():
        user, length = known.get(query, ("", -1))
        foreign += user != summary.user
        past += user == summary.user and summary.covers > length
    numbers = {"past the history": past, "of another query": foreign}
    if past or foreign:
        seen = f"{counted(past, len(run.summaries), 'summaries')} cover more interactions than the "
        seen += f"history holds, so they have read the target; {foreign:,} are of another query"
        return Check(name, "finding", seen, numbers)
    return Check(name, "ok", f"none of {len(run.summaries):,}", numbers)


def fitted_later(run: Evidence) -> Check:
    """No interaction for fitting is at or after a held-out target of its user."""
    name = "fitted on held-out events"
    held = run.all_cases.filter(pl.col("split") != "train")
    if held.is_empty():
        return Check(name, "skipped", "there are no held-out cases")
    fitted = run.dataset.interactions
    targets = (
        held.filter(pl.col("relevant").list.set_intersection("items").list.len() == 0)
        .select("user", pl.col("relevant").alias("item"), since=pl.col("times").list.first())
        .explode("item")
    )
    # A target may have been seen before all that is kept of the history, and be fitted on then.
    answers = (
        fitted.join(targets, on=["user", "item"])
        .filter(pl.col("time") >= pl.col("since"))
        .select("user", "item", "time")
        .unique()
    )
    # What comes after the earliest held-out history is its target, or later.
    last = (
        held.select("user", last=pl.col("times").list.last())
        .group_by("user")
        .agg(pl.col("last").min())
    )
    later = fitted.join(last, on="user").filter(pl.col("time") > pl.col("last"))
    numbers = {"targets": len(answers), "later": len(later)}
    if len(answers) or len(later):
        return Check(
            name,
            "finding",
            f"what rankers are fitted on holds {len(answers):,} held-out targets of its users and "
            f"{len(later):,} events from after a held-out query; prepare again",
            numbers,
        )
    return Check(name, "ok", f"none of {len(fitted):,} interactions", numbers)


def future_of_others(run: Evidence) -> Check:
    """Leave-last-out lets a ranker be fitted on what others did after the query."""
    name = "other users' later events"
    if not run.dataset.timed:
        return Check(name, "skipped", "the data has no times")
    ends = run.frame("test").select(last=pl.col("times").list.last())["last"].drop_nulls()
    fitted = run.dataset.interactions["time"].sort()
    if ends.is_empty() or fitted.is_empty():
        return Check(name, "skipped", "there are no test cases, or nothing to fit on")
    if run.config.data.split == "global_time":
        # A query comes when its window opens, not when its history ends.
        ends = ends.clip(lower_bound=_first_left_out(run))
    later = 1 - fitted.search_sorted(ends, side="right") / len(fitted)
    mean = float(str(later.mean()))
    seen = f"{100 * mean:.1f} % of the fitting data is later than a test query, on average"
    if mean <= LATER:
        return Check(name, "ok", seen, {"share": mean})
    return Check(
        name,
        "warning",
        f"{seen}: fitted rankers and popularity know other users' future "
        f"(data.split = {run.config.data.split}); global_time does not let them",
        {"share": mean},
    )


def _first_left_out(run: Evidence) -> float | None:
    """When the first interaction of a test history happened that is not for fitting."""
    history = run.frame("test").select("user", item="items", time="times").explode("item", "time")
    known = run.dataset.interactions.select("user", "item", "time")
    first = history.drop_nulls().join(known, on=["user", "item", "time"], how="anti")["time"].min()
    return None if first is None else float(str(first))


def untrusted_external_lists(run: Evidence) -> Iterator[Check]:
    """External lists: no file of the run says what they were made from."""
    names = list(run.config.rank.external_lists)
    if names:
        yield Check(
            "external lists",
            "warning",
            f"{', '.join(names)}: what they were fitted and chosen on is not known, so whether "
            "they, or a blend with them, knew the answers cannot be checked",
        )


def files_as_written(run: Evidence) -> Check:
    """Compares the files with the manifest: what their stages wrote, and what later ones read."""
    name = "files as their stages wrote them"
    if not run.records:
        return Check(name, "skipped", "there is no manifest, so nobody knows what was written")
    faults, warnings, unchanged = [], [], 0
    written = [
        (stage, *item) for stage, record in run.records.items() for item in record.files.items()
    ]
    for stage, file, hashed in written:
        now = run.hashes.get(file)
        readers = [one for one, record in run.records.items() if file in record.parents]
        stale = [one for one in readers if run.records[one].parents[file] != now]
        by = f" ({', '.join(stale)} read what was there before)" if stale else ""
        if now is None:
            warnings.append(f"{file} of {stage} is gone")
        elif now == hashed and not stale:
            unchanged += 1
        elif now == hashed:
            faults.append(f"{file} was made anew{by}")
        elif file in SUMMARIES and readers and not stale:
            # summaries may come from outside the run, and be ranked with then
            warnings.append(f"{file} is not what {stage} wrote; later stages read it as it is")
        else:
            faults.append(f"{file} changed since {stage} wrote it{by}")
    numbers = {"changed": len(faults), "as written": unchanged}
    if faults:
        seen = f"{'; '.join([*faults, *warnings])}: the figures are not of these files"
        return Check(name, "finding", seen, numbers)
    if warnings:
        return Check(name, "warning", "; ".join(warnings), numbers)
    return Check(name, "ok", f"all {unchanged} have the SHA-256 of the manifest", numbers)


def leakage(run: Evidence) -> Iterator[Check]:
    """Whether ids or popularity tell targets from negatives."""
    queries = list(_query_rows(run))
    ids = numbers_of(run.dataset.catalog.ids)
    name = "item ids give the target away"
    if ids is None:
        yield Check(name, "skipped", "item ids are not numbers")
    else:
        # the nearer a candidate's id is to any of the history's, the higher
        near = [-np.abs(ids[shown, None] - ids[history]).min(axis=1) for shown, history in queries]
        shown = ids_in_prompt(run)
        advice = "the prompts show ids" if shown else "a model that is shown ids could use that"
        yield _judged(name, near, advice, "finding" if shown else "warning")
    counts = dict(run.dataset.interactions.group_by("item").len().iter_rows())
    fitted = np.array([float(counts.get(item, 0)) for item in run.dataset.catalog.ids])
    advice = "compare every ranker with `popular`, or sample negatives by popularity"
    name = "items' popularity gives the target away"
    yield _judged(name, [fitted[shown] for shown, _ in queries], advice, "warning")


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


def _judged(name: str, scores: Sequence[Values], advice: str, state: State) -> Check:
    """Whether scores, a target's first, give targets away."""
    each = np.array([auc(one[:1], one[1:]) for one in scores])
    if len(each) < 2:
        return Check(name, "skipped", "there are too few test queries")
    mean, error = float(each.mean()), float(each.std(ddof=1)) / math.sqrt(len(each))
    numbers = {"auc": mean, "se": error, "queries": len(each)}
    seen = f"AUC {mean:.3f} ±{error:.3f}"
    if 0.5 - mean > 3 * error:  # as of popularity without the target itself, in sparse data
        behind = f"below chance: this puts the target behind {100 * (1 - mean):.0f} % of the others"
        return Check(name, "ok", f"{seen}: {behind}", numbers)
    within = "within 3 standard errors of chance"
    if mean - 0.5 <= 3 * error:
        few = f"above {STRONG}, but {within}: {len(each):,} queries are too few to tell"
        return Check(name, "ok", f"{seen}: {few if mean > STRONG else within}", numbers)
    if mean <= STRONG:
        return Check(name, "ok", f"{seen}: above chance; a warning above {STRONG}", numbers)
    alone = f"this alone puts the target before {100 * mean:.0f} % of the other candidates"
    return Check(name, state, f"{seen}: {alone}; {advice}", numbers)


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
