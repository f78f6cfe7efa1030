"""Checks that find answers where a ranker can see them, and events from after the question."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from trsr.audit.evidence import Check, Evidence, State, counted


def target_in_history(run: Evidence) -> Check:
    """Sampled negatives are never in the history, so a target that is there stands out."""
    name = "target in the history"
    if run.all_cases.is_empty():
        return Check(name, "skipped", "there are no cases")
    frame = run.all_cases.with_columns(
        hit=pl.col("items").list.set_intersection("relevant").list.len() > 0
    )
    hits = _by_split(frame, "hit")
    if not sum(hits.values()):
        return _twins_in_history(run, name, f"in none of {len(frame):,} cases", hits)
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


def _twins_in_history(run: Evidence, name: str, seen: str, hits: dict[str, int]) -> Check:
    """Whether what is told of a target is told of an item of its history, too."""
    texts = run.item_texts
    targets = of_targets = negatives = of_negatives = 0
    columns = run.frame("test").select("items", "candidates", "relevant")
    for items, candidates, relevant in columns.iter_rows():
        read = {texts[item] for item in items}
        others = set(candidates).difference(relevant, items)
        targets += len(relevant)
        of_targets += sum(texts[item] in read for item in relevant)
        negatives += len(others)
        of_negatives += sum(texts[item] in read for item in others)
    numbers = hits | {"twins of targets": of_targets, "twins of negatives": of_negatives}
    if not of_targets:
        return Check(name, "ok", seen, numbers)
    beside = f", and {counted(of_negatives, negatives, 'negatives')}" if negatives else ""
    return Check(
        name,
        "warning",
        f"{seen}, but {counted(of_targets, targets, 'test targets')} read as an item of their "
        f"history does{beside}: to a model that reads texts these are repeats; merge such items",
        numbers,
    )


def candidates_once(run: Evidence) -> Check:
    """Each candidate stands once, and the answer is among them."""
    name = "candidates, each once"
    listed = run.all_cases.filter(pl.col("candidates").list.len() > 0)
    if listed.is_empty():
        return Check(name, "skipped", _none_listed(run))
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
        return Check(name, "skipped", _none_listed(run))
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


def _none_listed(run: Evidence) -> str:
    return "the candidates are the whole catalogue" if len(run.all_cases) else "there are no cases"


def _by_split(frame: pl.DataFrame, column: str) -> dict[str, int]:
    found = frame.group_by("split", maintain_order=True).agg(pl.col(column).sum())
    return {split: int(hits) for split, hits in found.iter_rows()}


def lists_elsewhere(run: Evidence) -> Iterator[Check]:
    """Lists that were made elsewhere, where no file of the run tells what they knew."""
    names = list(run.config.rank.elsewhere)
    if names:
        yield Check(
            "lists made elsewhere",
            "warning",
            f"{', '.join(names)}: what they were fitted and chosen on is not known, so whether "
            "they, or a blend with them, knew the answers cannot be told",
        )
