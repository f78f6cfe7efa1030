"""Checks of what popularity was counted on, and how much of it was later than the question."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import polars as pl

from trsr.audit.evidence import Check, Evidence, counted
from trsr.rank import FitData, FitOptions, Resources
from trsr.rank.popular_recent import PopularRecentRanker
from trsr.types import Interaction, Item, Query, RankedList, UserHistory

FITTED = "interactions.parquet"
COUNTING = ("popular", "popular_recent")
"""The rankers whose scores are counts of interactions."""

ADDING = ("item_knn", "item_knn_recent", "ease")
"""The rankers that add popularity to what they sum."""

Scores = Callable[[RankedList], list[float]]
"""What the entries of a list should score, in their order."""


def popularity(run: Evidence) -> Iterator[Check]:
    """Popularity is counted on the interactions for fitting; how much of them is later."""
    yield _counts(run)
    yield _future_of_others(run)


def _counts(run: Evidence) -> Check:
    name = "popularity that saw later events"
    inside = list(_counting_inside(run))
    ranked = [one for one in COUNTING if one in run.rankings]
    if not inside and not ranked:
        return Check(
            name,
            "skipped",
            "no ranker counts interactions, and no member of the blend or first stage",
        )
    if run.frame("test").is_empty():
        return Check(name, "skipped", "there are no test queries")
    faults, fine, unknown = [], [], []
    numbers: dict[str, float | int | str | None] = {}
    for ranker in ranked:
        expected = _popular(run) if ranker == "popular" else _popular_recent(run)
        if expected is None:
            unknown.append(f"the manifest does not tell the window of {ranker}")
            continue
        wrong, targets, entries = _compared(run, ranker, expected)
        numbers |= {f"{ranker}: other counts": wrong, f"{ranker}: of targets": targets}
        if wrong:
            faults.append(
                f"{counted(wrong, entries, f'scores of {ranker}')} are not the counts of {FITTED} "
                f"({targets:,} of them of targets): popularity was counted on other events"
            )
        else:
            fine.append(f"all {entries:,} scores of {ranker} are counts of the fitting data")
    if inside:
        # These lists hold no plain counts, so what was counted is told by what rank read.
        members = ", ".join(inside)
        read = run.records["rank"].parents.get(FITTED) if "rank" in run.records else None
        if read is None:
            unknown.append(f"the manifest does not tell what {members} counted")
        elif read != run.hashes.get(FITTED):
            faults.append(f"{members} counted another {FITTED} than this one")
        else:
            fine.append(f"{members} counted {FITTED} as it is")
    if faults:
        return Check(name, "finding", "; ".join(faults), numbers)
    return Check(name, "ok" if fine else "skipped", "; ".join([*fine, *unknown]), numbers)


def _counting_inside(run: Evidence) -> Iterator[str]:
    """Who counts interactions without showing the counts as scores."""
    config = run.config
    yield from (one for one in ADDING if one in run.rankings)
    counting = (*COUNTING, *ADDING)
    members = [one for one in counting if one in config.rank.members("blend")]
    if members and "blend" in run.rankings:
        yield f"the blend's {' and '.join(members)}"
    if config.data.candidates == "full" and config.rank.first_stage in counting:
        yield f"the first stage {config.rank.first_stage}"


def _compared(run: Evidence, ranker: str, expected: Scores) -> tuple[int, int, int]:
    """How many scores are others than expected, how many of these are targets', and of how many."""
    relevant = {q: set(r) for q, r in run.frame("test").select("query", "relevant").iter_rows()}
    wrong = targets = entries = 0
    for ranked in run.rankings[ranker]:
        for entry, score in zip(ranked, expected(ranked), strict=True):
            entries += 1
            if entry.score != score:
                wrong += 1
                targets += entry.item in relevant.get(ranked.query, ())
    return wrong, targets, entries


def _popular(run: Evidence) -> Scores:
    counts = dict(run.dataset.interactions["item"].value_counts().iter_rows())
    return lambda ranked: [counts.get(entry.item, 0) for entry in ranked]


def _popular_recent(run: Evidence) -> Scores | None:
    """None where the window that was chosen is not known."""
    settings = run.config.rank.table("popular_recent")
    record = run.records.get("rank")
    chosen = record.info.get("chosen", {}).get("popular_recent", {}) if record else {}
    shares = settings.model_dump()["share"]
    share = chosen.get("share", shares[0] if len(shares) == 1 else None)
    if share is None:
        return None
    catalog = run.dataset.catalog
    config = settings.model_copy(update={"share": (share,)})
    ranker = PopularRecentRanker(config, Resources(catalog))
    ranker.fit(FitData(catalog, run.dataset.interactions), FitOptions())
    columns = run.frame("test").select("query", "user", "items", "times")
    histories = {query: told for query, *told in columns.iter_rows()}

    def item(name: str) -> Item:
        return catalog[name] if name in catalog else Item(name)

    def expected(ranked: RankedList) -> list[float]:
        user, items, times = histories.get(ranked.query, ("", (), ()))
        met = tuple(Interaction(item(one), time) for one, time in zip(items, times, strict=True))
        candidates = tuple(item(entry.item) for entry in ranked)
        if not candidates:
            return []
        asked = Query(ranked.query, UserHistory(user, met), candidates)
        (found,) = ranker.rank([asked])
        scores = {entry.item: entry.score for entry in found}
        return [scores[entry.item] for entry in ranked]

    return expected


def _future_of_others(run: Evidence) -> Check:
    """Leave-last-out lets a ranker be fitted on what others did after the question was asked."""
    name = "other users' later events"
    if not run.dataset.timed:
        return Check(name, "skipped", "the data has no times")
    asked = run.frame("test").select(last=pl.col("times").list.last())["last"].drop_nulls()
    fitted = run.dataset.interactions["time"].sort()
    if asked.is_empty() or fitted.is_empty():
        return Check(name, "skipped", "there are no test cases, or nothing to fit on")
    if run.config.data.split == "global_time":
        # A question is asked when its window opens, not when its history ends.
        asked = asked.clip(lower_bound=_first_left_out(run))
    later = 1 - fitted.search_sorted(asked, side="right") / len(fitted)
    mean = float(str(later.mean()))
    numbers = {"share": mean}
    seen = f"{100 * mean:.1f} % of the fitting data is later than a test question, in the mean"
    if mean <= 0.01:
        return Check(name, "ok", seen, numbers)
    return Check(
        name,
        "warning",
        f"{seen}: fitted rankers and popularity know other users' future "
        f"(data.split = {run.config.data.split}); global_time does not let them",
        numbers,
    )


def _first_left_out(run: Evidence) -> float | None:
    """When the first interaction of a test history happened that is not for fitting."""
    told = run.frame("test").select("user", item="items", time="times").explode("item", "time")
    known = run.dataset.interactions.select("user", "item", "time")
    first = told.drop_nulls().join(known, on=["user", "item", "time"], how="anti")["time"].min()
    return None if first is None else float(str(first))
