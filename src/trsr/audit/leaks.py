"""Checks that find answers where a ranker can see them, and events from after the question."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from trsr.audit.evidence import Check, Evidence, State, counted


def target_in_history(run: Evidence) -> Check:
    """Sampled negatives are never in the history, so a target that is there stands out."""
    name = "target in the history"
    frame = run.all_cases.with_columns(
        hit=pl.col("items").list.set_intersection("relevant").list.len() > 0
    )
    hits = _by_split(frame, "hit")
    if not sum(hits.values()):
        return Check(name, "ok", f"in none of {len(frame):,} cases", hits)
    seen = counted(sum(hits.values()), len(frame), "cases")
    if run.config.data.candidates == "given":
        return Check(name, "warning", f"in {seen}; given lists may hold other met items too", hits)
    return Check(
        name,
        "finding",
        f"in {seen}: negatives are never met items, so the history gives these answers away; "
        "prepare with data.drop_repeats = true",
        hits,
    )


def candidates_once(run: Evidence) -> Check:
    """Each candidate stands once, and the answer is among them."""
    name = "candidates, each once"
    listed = run.all_cases.filter(pl.col("candidates").list.len() > 0)
    if listed.is_empty():
        return Check(name, "skipped", "the candidates are the whole catalogue")
    frame = listed.with_columns(
        twice=pl.col("candidates").list.n_unique() < pl.col("candidates").list.len(),
        lacking=pl.col("relevant").list.set_difference("candidates").list.len() > 0,
    )
    twice, lacking = int(frame["twice"].sum()), int(frame["lacking"].sum())
    numbers = {"twice": twice, "answer missing": lacking}
    if twice or lacking:
        return Check(
            name,
            "finding",
            f"a candidate stands twice in {counted(twice, len(frame), 'cases')}; the answer is not "
            f"among the candidates of {lacking:,}",
            numbers,
        )
    return Check(name, "ok", f"in all {len(frame):,} cases", numbers)


def negatives_met(run: Evidence) -> Check:
    """A negative that the user has met is told apart by the history, or is a positive."""
    name = "negatives in the history"
    listed = run.all_cases.filter(pl.col("candidates").list.len() > 0)
    if listed.is_empty():
        return Check(name, "skipped", "the candidates are the whole catalogue")
    if run.config.data.candidates == "given":
        return Check(name, "skipped", "the candidates are the data's own lists")
    wrong = pl.col("candidates").list.set_difference("relevant").list.set_intersection("items")
    hits = int(listed.select((wrong.list.len() > 0).sum()).item())
    state: State = "finding" if hits else "ok"
    return Check(name, state, f"in {counted(hits, len(listed), 'cases')}", {"cases": hits})


def summary_covers(run: Evidence) -> Check:
    """A summary has read interactions of its own query's history, and no more."""
    name = "summaries that saw later events"
    if not run.summaries:
        return Check(name, "skipped", "the run has no summaries")
    if run.others_told:
        reason = "the run tells other users' summaries, which have read nothing of the user"
        return Check(name, "skipped", reason)
    known = {
        query: (user, length)
        for query, user, length in run.all_cases.select(
            "query", "user", pl.col("items").list.len()
        ).iter_rows()
    }
    past = strange = 0
    for query, summary in run.summaries.items():
        user, length = known.get(query, ("", -1))
        strange += user != summary.user
        past += user == summary.user and summary.covers > length
    numbers = {"past the history": past, "of another query": strange}
    if past or strange:
        return Check(
            name,
            "finding",
            f"{counted(past, len(run.summaries), 'summaries')} cover more interactions than the "
            f"history holds, so they have read the target; {strange:,} belong to no such query or "
            "to another user",
            numbers,
        )
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
    # A target may have been met before all that is kept of the history, and be fitted on then.
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
            f"interactions.parquet holds {len(answers):,} held-out targets of its users and "
            f"{len(later):,} events from after a held-out question; prepare again",
            numbers,
        )
    return Check(name, "ok", f"none of {len(fitted):,} interactions", numbers)


def popularity(run: Evidence) -> Iterator[Check]:
    """Popularity is counted on the interactions for fitting; how much of them is later."""
    yield _popularity_counts(run)
    yield _future_of_others(run)


def _popularity_counts(run: Evidence) -> Check:
    name = "popularity that saw later events"
    lists = run.rankings.get("popular")
    if lists is None:
        return Check(name, "skipped", "popular is not among the rankers")
    counts = dict(run.dataset.interactions["item"].value_counts().iter_rows())
    relevant = {q: set(r) for q, r in run.frame("test").select("query", "relevant").iter_rows()}
    wrong = targets = entries = 0
    for ranked in lists:
        for entry in ranked:
            entries += 1
            if entry.score != counts.get(entry.item, 0):
                wrong += 1
                targets += entry.item in relevant.get(ranked.query, ())
    numbers = {"other counts": wrong, "of targets": targets}
    if wrong:
        return Check(
            name,
            "finding",
            f"{counted(wrong, entries, 'scores')} are not the counts of interactions.parquet "
            f"({targets:,} of them of targets): popularity was counted on other events",
            numbers,
        )
    return Check(name, "ok", f"all {entries:,} scores are counts of the fitting data", numbers)


def _future_of_others(run: Evidence) -> Check:
    """Leave-last-out lets a ranker be fitted on what others did after the question was asked."""
    name = "other users' later events"
    if not run.timed:
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


def _by_split(frame: pl.DataFrame, column: str) -> dict[str, int]:
    found = frame.group_by("split", maintain_order=True).agg(pl.col(column).sum())
    return {split: int(hits) for split, hits in found.iter_rows()}
