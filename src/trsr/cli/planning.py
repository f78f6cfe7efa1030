"""`trsr plan`: a plan as a table, kept in the run directory until the run has begun."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trsr.config import load_config
from trsr.errors import ConfigError
from trsr.pipeline.artifacts import PLAN
from trsr.planning import Plan, StagePlan, plan
from trsr.progress import Progress, duration
from trsr.storage import files
from trsr.storage.run_directory import RunDirectory

HEADER = (
    "stage",
    "prompts",
    "from store",
    "tokens",
    "distinct",
    "written",
    "operations",
    "time",
    "memory",
    "dollars",
)


def planned(
    config: Path,
    settings: Sequence[str],
    machine: str,
    like: Path | None,
    price: float | None,
    progress: Progress,
) -> Plan:
    """Makes a plan; writes plan.json into the run directory, unless a model was asked there."""
    if machine and like:
        raise ConfigError("give --machine or --like, not both")
    loaded = load_config(config, settings)
    found = plan(loaded, machine=machine, measured=like, price=price, progress=progress)
    run = RunDirectory(loaded.run.folder)
    begun = set(run.records()) - {"prepare"}
    if not begun:
        files.make_folder(run.folder)
        files.write_json(run.folder / PLAN, found.to_json())
    return found


def rows(found: Plan) -> tuple[Sequence[str], list[list[str]]]:
    """The table's header and rows; the last is the sum."""
    total = StagePlan("all", seconds=found.seconds)
    for one in found.stages:
        for name in ("prompts", "hits", "tokens", "distinct", "generated", "error"):
            setattr(total, name, getattr(total, name) + getattr(one, name))
        total.operations += one.operations
        total.memory = max(total.memory or 0, one.memory or 0) or None
        if one.dollars is not None:
            total.dollars = (total.dollars or 0) + one.dollars
    return HEADER, [_row(one) for one in (*found.stages, total)]


def _row(one: StagePlan) -> list[str]:
    error = f" ± {one.error / one.tokens:.1%}" if one.error else ""
    return [
        one.stage,
        *(f"{value:,}" if value else "" for value in (one.prompts, one.hits)),
        f"{one.tokens:,}{error}" if one.tokens else "",
        *(f"{value:,}" if value else "" for value in (one.distinct, one.generated)),
        f"{one.operations:.2e}" if one.operations else "",
        "not known" if one.seconds is None else duration(one.seconds),
        f"{one.memory / 1e9:.1f} GB" if one.memory else "",
        "" if one.dollars is None else f"{one.dollars:,.2f}",
    ]
