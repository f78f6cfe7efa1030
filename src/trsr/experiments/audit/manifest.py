"""Whether a run's files are still those that its figures were made from."""

from __future__ import annotations

from trsr.experiments.audit.evidence import Check, Evidence
from trsr.pipeline.artifacts import SUMMARIES


def files_as_written(run: Evidence) -> Check:
    """Compares the files with the manifest: what their stages wrote, and what later ones read."""
    name = "files as their stages wrote them"
    if not run.records:
        return Check(name, "skipped", "there is no manifest, so nobody knows what was written")
    faults, warnings, unchanged = [], [], 0
    written = [
        (stage, *item) for stage, record in run.records.items() for item in record.files.items()
    ]
    for stage, file, hashed in written:
        now = run.hashes.get(file)
        readers = [one for one, record in run.records.items() if file in record.parents]
        stale = [one for one in readers if run.records[one].parents[file] != now]
        by = f" ({', '.join(stale)} read what was there before)" if stale else ""
        if now is None:
            warnings.append(f"{file} of {stage} is gone")
        elif now == hashed and not stale:
            unchanged += 1
        elif now == hashed:
            faults.append(f"{file} was made anew{by}")
        elif file in SUMMARIES and readers and not stale:
            # summaries may come from outside the run, and be ranked with then
            warnings.append(f"{file} is not what {stage} wrote; later stages read it as it is")
        else:
            faults.append(f"{file} changed since {stage} wrote it{by}")
    numbers = {"changed": len(faults), "as written": unchanged}
    if faults:
        seen = f"{'; '.join([*faults, *warnings])}: the figures are not of these files"
        return Check(name, "finding", seen, numbers)
    if warnings:
        return Check(name, "warning", "; ".join(warnings), numbers)
    return Check(name, "ok", f"all {unchanged} have the SHA-256 of the manifest", numbers)
