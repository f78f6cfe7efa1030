"""`trsr distill`: adds the ranker `distilled` to a trained run, and holds it to its teacher."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl

from trsr.config import Config, load_config
from trsr.errors import ConfigError
from trsr.metrics.significance import rank_correlation
from trsr.pipeline import run_stage
from trsr.pipeline.artifacts import adapter_of
from trsr.progress import Progress, Silent
from trsr.rankers import read_rankings
from trsr.rankers.distilled import TEACHER
from trsr.report.costs import RunFigures, run_figures
from trsr.storage.remote import is_url
from trsr.storage.run_directory import RunDirectory, need_run

STUDENT = "distilled"
LITTLE = 0.5
"""Below this rank correlation a student is not its teacher's."""


def distill_run(
    run: Path | str,
    settings: Sequence[str] = (),
    bars: Callable[[str], AbstractContextManager[Progress]] = lambda name: nullcontext(Silent()),
) -> RunFigures:
    """Adds `distilled` to a run's rankers, ranks and evaluates again.

    The other rankers stay as they are fitted, and the teacher's lists come from the response cache.
    A stopped call goes on.

    Args:
        run: A run directory whose language model was trained, or its address.
        settings: `KEY=VALUE` in place of the run's settings, such as `rank.distilled.scores=20000`.
        bars: Gives each stage its progress.

    Returns:
        The run's figures; the last note says how both rankers agree on its queries.

    Raises:
        ConfigError: If the run trained no ranker, or a setting is wrong.
        DataError: If the teacher tells no candidates apart, or items have no texts.
        StaleRunError: If a stage is missing, or was made with other settings.
        StoreError: If it is no run directory, or cannot be written.
    """
    if not is_url(run):
        need_run(Path(run))
    before = load_config(run, settings)
    need_run(before.run.folder)
    directory = RunDirectory(before.run.folder)
    if not before.trained or adapter_of(directory) is None:
        raise ConfigError(
            f"{run}: there is no trained ranker to learn from (rank.rankers: "
            f"{', '.join(before.rank.rankers)}); name {TEACHER} there and give `trsr run {run}`"
        )
    *others, last = before.rank.rankers
    # the last one is what `trsr recommend` takes, and stays that
    more = [name for name in (TEACHER, STUDENT) if name not in before.rank.rankers]
    names = json.dumps([*others, *more, last])
    config = load_config(run, [*settings, f"rank.rankers={names}"])
    for stage in ("rank", "evaluate"):
        with bars(stage) as bar:
            run_stage(config, stage, bar)
    figures = run_figures(config.run.folder)
    return replace(figures, notes=[*figures.notes, _agreeing(config)])


def _agreeing(config: Config) -> str:
    folder = config.run.folder
    rankings = read_rankings(folder / "rankings.parquet")
    found = agreement(rankings[STUDENT].frame, rankings[TEACHER].frame)
    correlation, first = np.mean(found, axis=0)
    error = np.std(found, axis=0)[0] / max(len(found) - 1, 1) ** 0.5
    learned = RunDirectory(folder).records()["rank"].info["chosen"][STUDENT]
    said = (
        f"{STUDENT} learned from {learned['scores']:,} scores of {TEACHER}. On {len(found):,} "
        f"queries their orders correlate by {correlation:.2f} ±{error:.2f} (Spearman, mean ± "
        f"standard error); the first item is the same in {first:.0%}."
    )
    if correlation >= LITTLE:
        return said
    return (
        f"{said} That is little: raise rank.distilled.scores or data.train_users, and see whether "
        f"{TEACHER} learned at all."
    )


def agreement(student: pl.DataFrame, teacher: pl.DataFrame) -> list[tuple[float, bool]]:
    """By query: the rank correlation over the teacher's items, and whether the first is the same.

    Lists are as `Rankings.frame` has them; an item that the student's lacks is behind its others.
    """
    both = teacher.join(student, on="query", suffix="_student")
    found = []
    for _, items, scores, others, given in both.iter_rows():
        known = dict(zip(others, given, strict=True))
        own = np.array([known.get(item, -np.inf) for item in items])
        found.append((rank_correlation(own, scores), int(own.argmax()) == int(np.argmax(scores))))
    return found
