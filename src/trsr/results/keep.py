"""`trsr keep`: the figures of finished runs, small enough to publish and without anybody's data.

A kept run is a run directory that `trsr results` and `trsr compare` read like any other. Of its
queries it holds the metrics; queries, users, candidates and right answers are digests, which tell
whether two runs ranked the same. Whoever has the data can find its users among them; nobody can
read an item from them. Texts, rankings and models are not in it.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import tomli_w

from trsr.errors import StoreError, TrsrError
from trsr.markdown import without_paths
from trsr.pipeline.finished import KEPT, REPORT, VALUES, is_kept, kept_name
from trsr.results.runs import Run, open_run
from trsr.store.files import hash_file
from trsr.store.rundir import MANIFEST, StageRecord, explained, write_atomic

SWEEP, SWEEP_PAGE, ERROR = "sweep.json", "sweep.md", "error.txt"
INTO = "--into"

_FIGURES = ("chance", "candidates", "notes")
"""What the page takes from a run's report, beside its rankers' lower bounds."""


def keep_runs(
    folders: Sequence[Path], into: Path, tell: Callable[[Path, str], None]
) -> tuple[Path, ...]:
    """Writes kept copies of finished runs.

    Args:
        folders: Run directories, or folders of them such as a sweep's; of the latter, runs that
            are not finished, or failed before a stage was done, are told of and left out.
        into: The folder for the copies, each under its run's name; a sweep's below its own. A copy
            that is there is written anew; a sweep's record keeps what earlier copies left in it.
        tell: Is told each run that is left out, and why.

    Returns:
        The copies.

    Raises:
        StoreError: If a named run is missing, not finished or stale, a folder has no run, two runs
            would have one copy, or a copy would stand where there is anything but a kept copy.
    """
    each = {folder.resolve(): folder for folder in folders}.values()
    inside = {folder: _runs_in(folder) for folder in each}
    _check_places(inside, into)
    kept = []
    for folder, runs in inside.items():
        target = into / folder.resolve().name
        if not runs:
            kept.append(_keep(open_run(folder), target))
            continue
        names = []
        for path, why in _failed(folder, runs).items():
            tell(path, why)
        for path in runs:
            try:
                kept.append(_keep(open_run(path), target / path.name))
                names.append(path.name)
            except TrsrError as error:
                tell(path, str(error))
        if names and (folder / SWEEP).is_file():
            try:
                _keep_sweep(folder / SWEEP, target / SWEEP, names)
            except TrsrError as error:
                tell(folder / SWEEP, str(error))
    return tuple(kept)


def _runs_in(folder: Path) -> list[Path]:
    """The runs of a folder of runs; none where it is a run itself.

    Raises:
        StoreError: If it is neither.
    """
    if folder.is_file():
        raise StoreError(f"{folder}: is a file; name a run directory, or a sweep's folder")
    if _is_run(folder) or not folder.is_dir():
        return []
    found = [path for path in sorted(folder.iterdir()) if _is_run(path)]
    if not found:
        raise StoreError(f"{folder}: there is no run in it; name a run, or a sweep's folder")
    return found


def _failed(folder: Path, runs: Sequence[Path]) -> dict[Path, str]:
    """Of a folder of runs those of which there are no files to keep, and why."""
    try:
        value = json.loads((folder / SWEEP).read_text("utf-8"))
        told = {folder / str(one["name"]): str(one.get("error", "")) for one in value["runs"]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        told = {}  # there is none, or it is told of when it is to be kept
    begun = [path for path in sorted(folder.iterdir()) if _is_begun(path)]
    found = {}
    for path in dict.fromkeys((*begun, *told)):
        if path in runs:
            continue
        error = " ".join(told.get(path, "").partition("\n")[0].split()).rstrip(":")
        if not error and (path / ERROR).is_file():
            error = f"see {path / ERROR}"
        found[path] = f"{path}: {f'it failed: {error}' if error else 'it was not run to its end'}"
    return found


def _is_begun(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (ERROR, "config.toml"))


def _is_run(folder: Path) -> bool:
    return (folder / VALUES).is_file() or (folder / MANIFEST).is_file()


def _check_places(inside: Mapping[Path, Sequence[Path]], into: Path) -> None:
    """Refuses copies that would take the place of anything but older copies, or of each other."""
    taken: dict[Path, Path] = {}
    for folder, runs in inside.items():
        target = into / folder.resolve().name
        other = taken.setdefault(target, folder)
        if other is not folder:
            raise StoreError(
                f"{other} and {folder}: both would be kept in {target}, and one would be lost; "
                "keep one of them in another folder, with --into"
            )
        if target.resolve() == folder.resolve():
            raise StoreError(
                f"{target}: a run cannot be kept in its own place; name another folder with --into"
            )
        for place in [target / path.name for path in runs] or [target]:
            if place.is_dir() and any(place.iterdir()) and not is_kept(place):
                raise StoreError(
                    f"{place}: there are files that are no kept copy, and they would be lost; name "
                    "another folder with --into"
                )
        if runs and (_is_run(target) or (target / SWEEP_PAGE).exists()):
            what = "a run" if _is_run(target) else "a sweep"
            raise StoreError(
                f"{target}: there is {what} that is no kept copy of this folder, and it would be "
                "mixed with it; name another folder with --into"
            )


def _keep(run: Run, folder: Path) -> Path:
    if run.report.get(KEPT):
        raise StoreError(f"{run.folder}: it is a kept copy already; copy the folder as it is")
    table = run.finished.values.with_columns(_digests("query"), _digests("user"))
    by_ranker = [table.filter(pl.col("ranker") == name) for name in run.finished.rankers]
    candidates, relevant = (pl.col(name).list.join("\n") for name in ("candidates", "relevant"))
    # One item is soon guessed from its digest; with its query and all its candidates it is not.
    answers = pl.concat_str("query", candidates, relevant, separator="\n\n")
    asked = run.finished.asked.with_columns(
        _digests("query"),
        pl.concat_list(_digests("candidates", candidates)),
        pl.concat_list(_digests("relevant", answers)),
    )
    if asked["query"].n_unique() < asked.height:
        raise StoreError(f"{run.folder}: two of its queries have the same digest")
    with explained(folder, INTO):
        folder.mkdir(parents=True, exist_ok=True)
        report = {name: run.report[name] for name in _FIGURES if name in run.report}
        bounds = {name: sorted(metrics) for name, metrics in run.finished.bounds.items()}
        rankers = {name: {"lower_bounds": bounds[name]} for name in run.finished.rankers}
        report |= {"rankers": rankers, KEPT: True}
        # First, so that a copy stopped half-way is known as one and may be written again.
        _write_json(report, folder / REPORT)
        # Rows in the digests' order: that of the data would say whose they are.
        _write_parquet(pl.concat([one.sort("query") for one in by_ranker]), folder / VALUES)
        _write_parquet(asked.sort("query"), folder / run.finished.cases_file)
        settings = tomllib.loads((run.folder / "config.toml").read_text("utf-8"))
        write_atomic(folder / "config.toml", tomli_w.dumps(_without_places(settings)))
        names = (REPORT, VALUES, run.finished.cases_file)
        hashes = {name: hash_file(folder / name) for name in names}
        _write_json(_manifest(run) | {KEPT: hashes}, folder / MANIFEST)
    return folder


def _keep_sweep(path: Path, copy: Path, names: Sequence[str]) -> None:
    """The sweep's record of the kept runs; its table only where that is of no others.

    Runs of one sweep that were made in several places are kept one place after the other, so what
    the copy's record has of other runs that are kept stays in it.
    """
    value = _record(path, "give `trsr sweep` again")
    kept = {one["name"]: one for one in value["runs"] if one["name"] in names}
    there = _record(copy, "delete it and keep the sweep again")["runs"] if copy.exists() else []
    others = {one["name"]: one for one in there if is_kept(copy.parent / one["name"])}
    if set(kept) < {one["name"] for one in value["runs"]} or set(others) - set(kept):
        value.pop("table", None)
    runs = list((others | kept).values())
    text = json.dumps(_without_places(value | {"runs": runs}), indent=1, ensure_ascii=False)
    with explained(copy.parent, INTO):
        write_atomic(copy, text)


def _record(path: Path, what: str) -> dict[str, Any]:
    """A sweep's record.

    Raises:
        StoreError: If it cannot be read, with what to do.
    """
    try:
        value: dict[str, Any] = json.loads(path.read_text("utf-8"))
        value["runs"] = [one for one in value["runs"] if one["name"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{path}: not a sweep's record that trsr wrote ({error}); {what}"
        ) from error
    return value


def _digests(column: str, of: pl.Expr | None = None) -> pl.Expr:
    expression = pl.col(column) if of is None else of
    return expression.map_elements(kept_name, return_dtype=pl.String).alias(column)


def _write_parquet(table: pl.DataFrame, path: Path) -> None:
    temporary = path.with_name(f".{path.name}.new")
    table.write_parquet(temporary, compression="zstd", compression_level=19)
    os.replace(temporary, path)


def _write_json(value: Mapping[str, Any], path: Path) -> None:
    write_atomic(path, json.dumps(value, indent=1, ensure_ascii=False, default=str) + "\n")


def _manifest(run: Run) -> dict[str, Any]:
    """What the stages reported; their own files are not kept, so nothing is said of these."""
    stages = {
        name: vars(StageRecord({}, {}, {}, _without_places(record.info)))
        for name, record in run.records.items()
    }
    return {"written": run.written, "stages": stages, "unfinished": []}


def _without_places(value: Any) -> Any:
    """The value with the last part alone of each path of the machine it was made on."""
    if isinstance(value, Mapping):
        found: dict[str, Any] = {}
        for key, one in value.items():
            name, number = _without_places(key), 1
            while name in found:
                number += 1
                name = f"{_without_places(key)} ({number})"
            found[name] = _without_places(one)
        return found
    if isinstance(value, list | tuple):
        return [_without_places(one) for one in value]
    if isinstance(value, str) and Path(value).is_absolute():
        return Path(value).name
    return without_paths(value) if isinstance(value, str) else value
