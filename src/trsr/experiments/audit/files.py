"""Whether a run's files are still those that its figures were made from."""

from __future__ import annotations

from collections.abc import Iterator

from trsr.experiments.audit.evidence import Check, Evidence
from trsr.pipeline.artifacts import SUMMARIES


def files_as_written(run: Evidence) -> Check:
    """Compares the files with the manifest: what their stages wrote, and what later ones read."""
    name = "files as their stages wrote them"
    if not run.records:
        return Check(name, "skipped", "there is no manifest, so nobody knows what was written")
    faults, told, fine = [], [], 0
    for stage, file, written in _written(run):
        now, stale = run.hashes.get(file), _stale(run, file)
        if now is None:
            told.append(f"{file} of {stage} is gone")
        elif now == written and not stale:
            fine += 1
        elif now == written:
            faults.append(f"{file} was made anew{_by(stale)}")
        elif file in SUMMARIES and not stale and _readers(run, file):
            # they may be written elsewhere, and ranked with then
            told.append(f"{file} is not what {stage} wrote; later stages read it as it is")
        else:
            faults.append(f"{file} changed since {stage} wrote it{_by(stale)}")
    numbers = {"changed": len(faults), "as written": fine}
    if faults:
        seen = f"{'; '.join([*faults, *told])}: the figures are not of these files"
        return Check(name, "finding", seen, numbers)
    if told:
        return Check(name, "warning", "; ".join(told), numbers)
    return Check(name, "ok", f"all {fine} have the SHA-256 that the manifest tells", numbers)


def _written(run: Evidence) -> Iterator[tuple[str, str, str]]:
    """Stage, file and SHA-256 of all that the stages wrote."""
    for stage, record in run.records.items():
        for file, written in record.files.items():
            yield stage, file, written


def _readers(run: Evidence, file: str) -> list[str]:
    """The stages that read a file."""
    return [stage for stage, record in run.records.items() if file in record.parents]


def _stale(run: Evidence, file: str) -> list[str]:
    """The stages that read a file when it was another."""
    now = run.hashes.get(file)
    return [stage for stage in _readers(run, file) if run.records[stage].parents[file] != now]


def _by(stale: list[str]) -> str:
    return f" ({', '.join(stale)} read what was there before)" if stale else ""
