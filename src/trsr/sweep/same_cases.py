"""Keeps a search from trying settings that change what is asked: the easiest cases would win."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from trsr.errors import ConfigError
from trsr.pipeline import STAGE_NAMES
from trsr.progress import Progress
from trsr.sweep.plan import Plan, Planned, value_text
from trsr.sweep.read import cases_digest
from trsr.sweep.running import AHEAD, as_it_is, make_run
from trsr.sweep.space import Range
from trsr.sweep.table import Outcome

_DATA = ("data.", "run.seed")
"""Begin the names of the settings that cases are drawn by."""

_PREPARE = STAGE_NAMES[:1]


class SameCases:
    """The validation cases of the first trial, which all others must have.

    Args:
        plan: A search.
        progress: Its note says what is prepared.
    """

    def __init__(self, plan: Plan, progress: Progress) -> None:
        self._plan = plan
        self._progress = progress
        self._first: dict[int | None, tuple[Planned, str]] = {}

    def look_ahead(self) -> None:
        """Prepares data with each listed value, and with the ends of ranges, before any trial.

        What is prepared lies beside the runs, which copy it, while the search goes on.

        Raises:
            ConfigError: If a value changes the validation cases.
        """
        first: tuple[Mapping[str, Any], str] | None = None
        for place, settings in enumerate(self._each_alone()):
            found = self._ahead(place, settings)
            if not found:  # its trials fail and say why
                continue
            first = first or (settings, found)
            if found != first[1]:
                raise ConfigError(self._said(settings, first[0]))

    def prepared(self, run: Planned) -> Outcome:
        """Prepares the data of a trial's run, the first part of making it.

        Raises:
            ConfigError: If its validation cases are others than the first trial's.
        """
        outcome = make_run(run, self._plan.folder, _PREPARE, self._progress, as_it_is)
        if outcome.error:
            return outcome
        own = cases_digest(run.config.run.folder, "valid")
        first, known = self._first.setdefault(run.seed, (run, own))
        if own != known:
            raise ConfigError(self._said(run.settings, first.settings, run.name, first.name))
        return outcome

    def _each_alone(self) -> Iterator[dict[str, Any]]:
        """Settings that differ from the first ones in one setting of the data; none if none can."""
        space = {
            key: [one.low, one.high] if isinstance(one, Range) else one
            for key, one in self._plan.space().items()
        }
        first = {key: values[0] for key, values in space.items()}
        data = [key for key in space if key.startswith(_DATA)]
        if data:
            yield first
        for key in data:
            yield from (first | {key: value} for value in space[key][1:])

    def _ahead(self, place: int, settings: Mapping[str, Any]) -> str:
        """A digest of the validation cases with these settings; empty where they fit none."""
        try:
            run = self._plan.trial(settings)[0]
        except ConfigError:
            return ""
        folder = self._plan.folder / f"{AHEAD}{place}"
        own = run.config.run.model_copy(update={"folder": folder})
        config = run.config.model_copy(update={"run": own})
        ahead = dataclasses.replace(run, config=config)
        made = make_run(ahead, self._plan.folder, _PREPARE, self._progress, as_it_is)
        return "" if made.error else cases_digest(folder, "valid")

    def _said(
        self,
        settings: Mapping[str, Any],
        first: Mapping[str, Any],
        trial: str = "",
        other: str = "",
    ) -> str:
        keys = [key for key in settings if key.startswith(_DATA) and settings[key] != first[key]]
        if not keys:
            return (
                f"{self._plan.path}: the trial {trial} has other validation cases than {other}, "
                "and by no setting: the data has changed; give the same command again"
            )
        here, there = (
            ", ".join(f"{key} = {value_text(own[key])}" for key in keys)
            for own in (settings, first)
        )
        what = f"the trial {trial} ({here})" if trial else here
        whose = f"the trial {other} ({there})" if other else there
        return (
            f"{self._plan.path}: search.space: {what} has other validation cases than {whose}: "
            "their figures do not compare, and the easiest cases would win; "
            f"give {', '.join(keys)} one value in [set], or list values in a [grid]"
        )
