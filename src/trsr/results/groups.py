"""The table of a section that parts its queries by the length of the history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from trsr.evaluate.groups import name_of
from trsr.evaluate.sides import SideResult, SidesReport, compare_sides
from trsr.evaluate.table import LEAST, decimals, signed, span
from trsr.results.tables import Row, Table


def group_table(
    rows: Sequence[Row], report: SidesReport, bins: Sequence[int]
) -> tuple[str, Table, str]:
    """One compared metric of every row in each group, and its difference to the baseline.

    It is the first one of which there are differences: of lower bounds there are none.

    Args:
        rows: The section's.
        report: Names the baseline and the metric.
        bins: The lengths at which a new group begins. A query's is that of its longest history in
            any of the rows' runs, which may be cut at different lengths.

    Returns:
        What it is, the table and how it is to be read.
    """
    metrics = [one.metric for one in report.results]
    metric = next((one.metric for one in report.results if one.compared), metrics[0])
    ranked = [run.finished.of(row.ranker) for row in rows for run in row.runs]
    lengths = np.max([table["history"].to_numpy() for table in ranked], axis=0)
    users = ranked[0]["user"].to_numpy()
    place = np.searchsorted(sorted(set(bins)), lengths, side="right")
    header, columns = [""], []
    for group in np.unique(place):
        own = np.flatnonzero(place == group)
        name = name_of(int(lengths[own].min()), int(lengths[own].max()))
        header.append(f"{name} ({len(own):,} {'query' if len(own) == 1 else 'queries'})")
        sides = [
            replace(row.side, values={metric: row.side.values[metric][:, own]}) for row in rows
        ]
        found = compare_sides(sides, report.baseline, users[own].tolist(), [metric])
        columns.append({one.side: one for one in found.results})
    lines = [[row.name, *(_cell(column[row.name]) for column in columns)] for row in rows]
    lead = f"{metric} by length of history, with the difference to {report.baseline}:"
    pooled = any(row.side.seeds > 1 for row in rows)
    trained = "" if pooled else ", over users for these trainings"
    note = (
        f"95 % intervals within the group{trained}, not corrected: groups describe, they do not "
        "decide."
    )
    return lead, (header, lines), note


def _cell(one: SideResult) -> str:
    found, text = one.difference, (LEAST if one.bound else "") + decimals(one.mean)
    if found is None or not one.compared:
        return text
    return f"{text}; {signed(found.mean)} ({span(found.low, found.high)})"
