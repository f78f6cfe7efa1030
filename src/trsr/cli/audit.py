"""`trsr audit`: the table of checks."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from trsr.cli.terminal import out
from trsr.experiments.audit import audit
from trsr.progress import Progress

STYLES = {"ok": "green", "finding": "bold red", "warning": "yellow", "skipped": "dim"}


def show_audit(run: Path, as_json: bool, llm_queries: int, progress: Progress) -> bool:
    """Audits a run and prints what was found; whether there are no findings."""
    found = audit(run, llm_queries, progress)
    if as_json:
        out.print_json(json.dumps(found.to_json(), ensure_ascii=False))
        return not found.findings
    header, rows = found.rows()
    table = Table(*header, header_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for name, state, seen in rows:
        table.add_row(escape(name), f"[{STYLES[state]}]{state}[/]", escape(seen))
    out.print(table)
    states: Counter[str] = Counter(check.state for check in found.checks)
    said = ", ".join(f"{states[state]} {state}" for state in STYLES if states[state])
    out.print(f"{said} of {len(found.checks)} checks", markup=False)
    return not found.findings
