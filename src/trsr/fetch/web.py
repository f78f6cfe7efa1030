"""Downloads, checked: what a way of getting something is made of."""

from __future__ import annotations

import hashlib
import threading
import urllib.request
from pathlib import Path

from trsr.progress import Progress

PROBE_SECONDS = 5.0  # how long a hub or publisher may take to show that it can be reached


class NotHereError(Exception):
    """One way to get something does not work now; the message is the reason, in words."""


def probe(url: str) -> None:
    """Asks an address for its head, in bounded time even where the name look-up hangs."""
    outcome: list[BaseException | None] = []

    def ask() -> None:
        request = urllib.request.Request(url, method="HEAD")  # noqa: S310  (ours: see sources)
        try:
            with urllib.request.urlopen(request, timeout=PROBE_SECONDS):  # noqa: S310  (as above)
                outcome.append(None)
        except (OSError, ValueError) as error:
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
        NotHereError: If it cannot be had.
    """
    try:
        with urllib.request.urlopen(url, timeout=30) as answer, path.open("wb") as file:  # noqa: S310  (ours: see sources)
            length = answer.headers.get("Content-Length")
            progress.begin(int(length) if length else None, "bytes")
            while chunk := answer.read(1 << 18):
                file.write(chunk)
                progress.advance(len(chunk))
    except (OSError, ValueError) as error:
        raise NotHereError(f"{url}: {error}") from error


def check(path: Path, kind: str, expected: str, what: str) -> None:
    """Refuses a file that is missing or has not the expected sum of this kind.

    Raises:
        NotHereError: Naming it as `what`.
    """
    if not path.is_file():
        raise NotHereError(f"{what}: the file is missing")
    found = digest(path, kind)
    if found != expected:
        raise NotHereError(
            f"{what}: its {kind} is {found}, expected {expected}: damaged or changed"
        )


def digest(path: Path, kind: str) -> str:
    """A file's sum of a kind that hashlib knows, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(
            file, lambda: hashlib.new(kind, usedforsecurity=False)
        ).hexdigest()
