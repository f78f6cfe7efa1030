"""Checks that find answers where a ranker can see them, and events from after the query."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from trsr.experiments.audit.evidence import Check, Evidence, counted
from trsr.pipeline.artifacts import SUMMARIES

LATER = 0.01
"""The share of the fitting data after a test query, above which it is a warning."""


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
        return _twins_in_history(run, name, seen, hits)
    if run.config.data.candidates == "given":
        return Check(name, "warning", f"{seen}; given lists may hold other seen items too", hits)
    why = "negatives are never seen items, so the history gives these answers away; prepare with "
    return Check(name, "finding", f"{seen}: {why}data.drop_repeats = true", hits)


def _twins_in_history(run: Evidence, name: str, seen: str, hits: dict[str, int]) -> Check:
    """Whether what the prompt says of a target it says of an item of its history, too."""
    texts = run.item_texts
    twins = {"twins of targets": 0, "twins of negatives": 0}
    totals = dict.fromkeys(twins, 0)
    columns = run.frame("test").select("items", "candidates", "relevant")
    for items, candidates, relevant in columns.iter_rows():
        read = {texts[item] for item in items}
        others = set(candidates).difference(relevant, items)
        for kind, ids in zip(twins, (relevant, others), strict=True):
            totals[kind] += len(ids)
            twins[kind] += sum(texts[item] in read for item in ids)
    targets, negatives = (
        counted(twins[kind], totals[kind], what)
        for kind, what in zip(twins, ("test targets", "negatives"), strict=True)
    )
    if not twins["twins of targets"]:
        return Check(name, "ok", seen, hits | twins)
    why = f"{targets} read as an item of their history does, and {negatives}: to a model that reads"
    return Check(
        name,
        "warning",
        f"{seen}, but {why} texts these are repeats; merge such items",
        hits | twins,
    )


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
            f"interactions.parquet holds {len(answers):,} held-out targets of its users and "
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
