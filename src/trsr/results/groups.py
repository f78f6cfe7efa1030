"""The table of a section that parts its queries by the length of the history."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trsr.evaluate.groups import name_of
from trsr.evaluate.sides import Side, SideResult, SidesReport, compare_sides
from trsr.evaluate.table import decimals, signed, span
from trsr.results.tables import Row, Table


def group_table(
    rows: Sequence[Row], report: SidesReport, bins: Sequence[int]
) -> tuple[str, Table, str]:
    """The first compared metric of every row in each group, and its difference to the baseline.

    Args:
        rows: The section's.
        report: Names the baseline and the metric.
        bins: The lengths at which a new group begins. A query's is that of its longest history in
            any of the rows' runs, which may be cut at different lengths.

    Returns:
        What it is, the table and how it is to be read.
    """
    metric = report.results[0].metric
    ranked = [run.finished.of(row.ranker) for row in rows for run in row.runs]
    lengths = np.max([table["history"].to_numpy() for table in ranked], axis=0)
    users = ranked[0]["user"].to_numpy()
    place = np.searchsorted(sorted(set(bins)), lengths, side="right")
    header, columns = [""], []
    for group in np.unique(place):
        own = np.flatnonzero(place == group)
        name = name_of(int(lengths[own].min()), int(lengths[own].max()))
        header.append(f"{name} ({len(own):,} {'query' if len(own) == 1 else 'queries'})")
        sides = [Side(row.name, {metric: row.side.values[metric][:, own]}) for row in rows]
        found = compare_sides(sides, report.baseline, users[own].tolist(), [metric])
        columns.append({one.side: one for one in found.results})
    lines = [[row.name, *(_cell(column[row.name]) for column in columns)] for row in rows]
    lead = f"{metric} by length of history, with the difference to {report.baseline}:"
    note = "95 % intervals within the group, not corrected: groups describe, they do not decide."
    return lead, (header, lines), note


def _cell(one: SideResult) -> str:
    found = one.difference
    if found is None:
        return decimals(one.mean)
    return f"{decimals(one.mean)}; {signed(found.mean)} ({span(found.low, found.high)})"
