"""Looks for what would make a run's figures untrue: leaks, shortcuts, biases, unused inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trsr.errors import DataError
from trsr.experiments.audit import cases, texts
from trsr.experiments.audit.evidence import Check, Evidence
from trsr.experiments.audit.model import model_checks
from trsr.progress import Progress, Silent

__all__ = ["Audit", "Check", "audit"]

Look = Callable[[Evidence], Check | Iterable[Check]]

CHEAP: tuple[Look, ...] = (
    cases.files_as_written,
    cases.target_in_history,
    cases.candidates_once,
    cases.negatives_seen,
    cases.summary_covers,
    cases.fitted_later,
    cases.untrusted_external_lists,
    cases.future_of_others,
    texts.words_in_summary,
    texts.words_in_prompt,
    texts.target_named,
    texts.same_for_all,
    texts.alike,
    cases.places,
    cases.leakage,
    cases.ranked_lists,
)
"""The checks that need no model."""


@dataclass(frozen=True, slots=True)
class Audit:
    """What an audit found."""

    run: Path
    checks: tuple[Check, ...]

    @property
    def findings(self) -> tuple[Check, ...]:
        """The checks for which the run's figures cannot be trusted."""
        return tuple(check for check in self.checks if check.state == "finding")

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "run": str(self.run),
            "findings": len(self.findings),
            "checks": [
                {
                    "name": check.name,
                    "state": check.state,
                    "seen": check.seen,
                    "numbers": dict(check.numbers),
                }
                for check in self.checks
            ],
        }


def audit(folder: Path | str, llm_queries: int = 0, progress: Progress | None = None) -> Audit:
    """Looks for leaks, shortcuts, biases and unused inputs in a run.

    Args:
        folder: The run directory; at least `prepare` is done.
        llm_queries: How many test queries the ranking model scores; 0: the checks that need it
            are skipped.
        progress: Advanced by each check, then by each query.

    Raises:
        StoreError: If the folder holds no prepared data.
        DataError: If a file is missing or damaged.
        ModelError: If the model is needed and cannot be opened.
    """
    run = Evidence(Path(folder))
    run.cases  # noqa: B018 - files that cannot be read are no finding, but an error
    progress = progress or Silent()
    return Audit(run.folder, tuple(_checks(run, llm_queries, progress)))


def _checks(run: Evidence, llm_queries: int, progress: Progress) -> Iterator[Check]:
    progress.begin(len(CHEAP), "checks")
    for look in CHEAP:
        yield from _found(look, run)
        progress.advance()
    yield from model_checks(run, llm_queries, progress)


def _found(look: Look, run: Evidence) -> list[Check]:
    try:
        found = look(run)
        return [found] if isinstance(found, Check) else list(found)
    except (ValueError, DataError) as error:
        # cases that contradict themselves are another check's finding
        return [Check(look.__name__.replace("_", " "), "skipped", f"unreadable: {error}")]
