"""The end of `trsr run`: what the figures mean, one user's list, and what to do next."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from trsr.cli.terminal import command
from trsr.config import Config
from trsr.data import Dataset
from trsr.explanation import summary_text, title
from trsr.metrics.report import decimals, p_value
from trsr.metrics.significance import BETTER, compare_rankers, significance, standard_error
from trsr.pipeline import stage_names
from trsr.pipeline.artifacts import read_summaries
from trsr.progress import duration
from trsr.report.costs import RankerCost, brief_seconds, read_costs
from trsr.storage import files
from trsr.storage.run_directory import RunDirectory
from trsr.types import Case

ITEMS = 5
"""Items shown of the example user's history, and of the list."""


def ending(config: Config) -> Iterator[str]:
    """The lines below a finished run's table.

    The best ranker is the one with the highest mean NDCG@10, or of the first metric where that is
    absent or a lower bound. Its lead counts as shown by the test of the report's table.
    """
    folder = config.run.folder
    report = files.read_json(folder / "report.json")
    metric = _metric(report)
    yield from _times(config)
    ranked = _ranked(report, metric)
    if ranked:
        yield ""
        yield from _meaning(report, metric, ranked, folder)
    best = ranked[0] if ranked else str(report["main"])
    case = next(iter(Dataset.load(folder).cases(config.rank.split)), None)
    if case is not None:
        yield ""
        yield from _example(config, case, best)
    yield ""
    yield from _next(config, case.query.history.user if case else "USER", best)


def _metric(report: Mapping[str, Any]) -> str:
    """The metric shown; empty where all are lower bounds or there is no query."""
    bounds = {name for one in report["rankers"].values() for name in one["lower_bounds"]}
    usable = [
        name for name, mean in report["chance"].items() if name not in bounds and mean is not None
    ]
    return "ndcg@10" if "ndcg@10" in usable else next(iter(usable), "")


def _ranked(report: Mapping[str, Any], metric: str) -> list[str]:
    """The rankers, the highest mean first; of equals the one that stands first in the table."""
    if not metric:
        return []
    means = {name: one["metrics"][metric]["mean"] for name, one in report["rankers"].items()}
    return sorted(means, key=lambda name: -means[name])


def _times(config: Config) -> Iterator[str]:
    """What the method's stages took; evaluate's is short, and differs whenever it is made again."""
    records = RunDirectory(config.run.folder).records()
    names = [one for one in stage_names(config) if one in records and one != "evaluate"]
    took = {name: float(records[name].info.get("seconds", 0)) for name in names}
    times = [f"{name} {duration(seconds)}" for name, seconds in took.items() if seconds >= 1]
    if times:
        yield f"time: {', '.join(times)}; in all {duration(sum(took.values()))}"


def _meaning(
    report: Mapping[str, Any], metric: str, ranked: Sequence[str], folder: Path
) -> Iterator[str]:
    """Three sentences: the best against chance, against the next, and what it costs."""
    best = ranked[0]
    own = report["rankers"][best]["metrics"][metric]
    chance = float(report["chance"][metric])
    clear = own["se"] is not None and own["mean"] - chance >= 2 * own["se"]
    beside = ""
    if "popular" in ranked[1:]:
        popular = report["rankers"]["popular"]["metrics"][metric]["mean"]
        beside = f" and the most popular items first {decimals(popular)}"
    yield "What the figures say:"
    yield (
        f"  {best} has the highest {metric}: {_value(own)}. A random order reaches "
        f"{decimals(chance)}{beside}."
        + ("" if clear else " So few queries do not show that it is better than a random order.")
    )
    if len(ranked) > 1:
        values = files.read_parquet(folder / "per_query.parquet")
        yield f"  {_lead(values, report, metric, ranked)}"
    costs = {one.ranker: one for one in read_costs(report.get("costs"))}
    yield from (f"  {line}" for line in _price(report, metric, ranked, costs))


def _value(found: Mapping[str, Any]) -> str:
    error = "" if found["se"] is None else f" ± {decimals(found['se'])}"
    return decimals(found["mean"]) + error


def _difference(
    values: pl.DataFrame, metric: str, first: str, second: str
) -> tuple[float, float | None]:
    """The mean difference over the queries and its standard error; None for one user alone."""
    systems = [values.filter(pl.col("ranker") == name).sort("query") for name in (first, second)]
    differences = (systems[0][metric] - systems[1][metric]).to_numpy()
    users = systems[0]["user"].to_list()
    error = standard_error(differences[:, None], users) if len(set(users)) > 1 else None
    return float(differences.mean()), error


def _lead(
    values: pl.DataFrame, report: Mapping[str, Any], metric: str, ranked: Sequence[str]
) -> str:
    """The best against the next, judged as the report judges: by the corrected p-value."""
    mean, error = _difference(values, metric, ranked[0], ranked[1])
    users = values["user"].n_unique()
    if decimals(mean) == decimals(0.0):
        return f"{ranked[1]}, the next, reaches as much."
    lead = f"It leads {ranked[1]}, the next, by {decimals(mean)}"
    if error is None:
        return f"{lead}; one user cannot show how sure that is."
    lead += f" ± {decimals(error)} on the same queries"
    corrected = _corrected(values, report, metric, ranked)
    p = p_value(corrected)
    said = f"p {p if p.startswith('<') else f'= {p}'} after Holm's correction"
    if significance(mean, corrected) == BETTER:
        return f"{lead}: the lead is significant ({said})."
    return f"{lead}: {said}, so {users} users do not show which is better."


def _corrected(
    values: pl.DataFrame, report: Mapping[str, Any], metric: str, ranked: Sequence[str]
) -> float | None:
    """The p-value of the report's table; where it compares others, of one about the best."""
    pair = set(ranked[:2])
    for one in report["comparisons"]:
        if one["metric"] == metric and {one["ranker"], one["baseline"]} == pair:
            return None if one["p_holm"] is None else float(one["p_holm"])
    bounds = {name: one["lower_bounds"] for name, one in report["rankers"].items()}
    metrics = [name for name in report["chance"] if name in values.columns]
    for found in compare_rankers(values, ranked, ranked[0], metrics, bounds):
        if (found.ranker, found.metric) == (ranked[1], metric):
            return found.p_holm
    return None


def _price(
    report: Mapping[str, Any],
    metric: str,
    ranked: Sequence[str],
    costs: Mapping[str, RankerCost],
) -> Iterator[str]:
    """What the best costs, and the fastest of those that reach nine tenths of its value."""
    took = {
        name: costs[name].seconds_a_query
        for name in ranked
        if name in costs and costs[name].seconds_a_query is not None
    }
    best = ranked[0]
    if best not in took:
        return
    means = {name: report["rankers"][name]["metrics"][metric]["mean"] for name in took}
    close = [name for name in took if means[name] >= 0.9 * means[best]]
    fastest = min(close, key=lambda name: took[name] or 0.0)
    cost = f"{best} takes {brief_seconds(took[best])} a query"
    if fastest == best:
        yield f"{cost}; no faster ranker comes within a tenth." if len(took) > 1 else f"{cost}."
        return
    yield (
        f"{cost}; {fastest}, the fastest that comes within a tenth, reaches "
        f"{decimals(means[fastest])} in {brief_seconds(took[fastest])}."
    )


def _example(config: Config, case: Case, ranker: str) -> Iterator[str]:
    """The first ranked user: what came last, the summary, and the head of the best list."""
    folder, history = config.run.folder, case.query.history
    split = config.rank.split
    yield f"An example, user {history.user}, the first of the {split} cases:"
    fields = config.prompts.fields
    recent = [title(item, 40, fields) for item in history.recent(ITEMS)]
    yield f"  last {len(recent)} of {len(history)} items: {' · '.join(recent)}"
    found = read_summaries(folder, (split,)).get(case.query.id)
    if found is not None and found.text:
        yield f"  summary of {found.covers} items: {summary_text(config, found)}"
    items = _list(folder / "rankings.parquet", ranker, case.query.id)
    names = {item.id: title(item, 60, fields) for item in case.query.candidates}
    yield f"  {ranker}'s list of {len(items)} candidates (→ the item that the user chose next):"
    for place, item in enumerate(items, 1):
        relevant = item in case.relevant
        if place <= ITEMS or relevant:
            yield f"  {'→' if relevant else ' '}{place:4d}. {names.get(item, item)}"


def _list(path: Path, ranker: str, query: str) -> list[str]:
    """The items of one list, best first; empty where there is none."""
    wanted = (pl.col("ranker") == ranker) & (pl.col("query") == query)
    found = files.scan_parquet(path).filter(wanted).select("items").head(1).collect()
    return list(found["items"][0]) if found.height else []


def _next(config: Config, user: str, best: str) -> Iterator[str]:
    folder = str(config.run.folder)
    commands = {
        command("show", folder, user): "one user's history, summaries, prompt and lists",
        command("recommend", folder, user, options=["--ranker", best]): "items for this user",
    }
    if config.data.dataset:
        commands["trsr init EVENTS.csv ITEMS.csv"] = "a configuration for your own data"
    widest = max(map(len, commands))
    yield "Next:"
    yield from (f"  {line:<{widest}}  {what}" for line, what in commands.items())
    yield f"report: {config.run.folder / 'report.html'}"
