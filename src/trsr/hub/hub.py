"""The way by the hub: a snapshot of a repository, its weights checked."""

from __future__ import annotations

from pathlib import Path

from trsr.hub.web import NotHereError, check, probe
from trsr.progress import Progress
from trsr.storage import files


def from_hub(
    repo: str, revision: str, sha256: str, megabytes: int, made: Path, progress: Progress
) -> str:
    """A repository's snapshot from the hub, its weights checked."""
    try:
        from huggingface_hub import constants, snapshot_download
    except ImportError as error:
        raise NotHereError("the hub: huggingface_hub is not installed") from error
    where = f"{constants.ENDPOINT}/{repo}"
    probe(f"{where}/resolve/{revision}/config.json")
    progress.begin(None, "files")
    progress.advance(0, f"downloading {megabytes} MB from {where}")
    try:
        snapshot_download(
            repo,
            revision=revision,
            local_dir=made,
            allow_patterns=["*.json", "*.txt", "model.safetensors", "README.md"],
        )
    except Exception as error:  # of three libraries; whichever it is, the package is tried next
        raise NotHereError(f"{where}: {type(error).__name__}: {error}") from error
    files.remove(made / ".cache")
    check(made / "model.safetensors", "sha256", sha256, f"model.safetensors of {where}")
    progress.advance(len(files.listed(made)))
    return f"{where} at {revision}"
