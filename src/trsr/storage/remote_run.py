"""Run directories in object stores: local copies of a remote folder.

Libraries map files of the local disk into memory, so a run is made and read in a copy there. A
remote run has the very layout of a local one, so either may be a copy of the other.

- A **working copy** is written. Under a lock it first becomes what the remote run is, or brings up
  what a killed upload left behind. A stage's files go up before the manifest that names them, and
  the manifest is replaced only if nobody else has replaced it.
- A **snapshot** is read: the state of one manifest. Its files come down when they are first looked
  at, and are held to the manifest's hashes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import platform
import threading
import time
import uuid
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from trsr.errors import StoreError
from trsr.storage import files
from trsr.storage.addresses import ADDRESSES
from trsr.storage.files import hash_file
from trsr.storage.remote import Found, MovedOnError, RemoteFolder, Version, home, is_url, normalized
from trsr.storage.run_directory import (
    CONFIG,
    MANIFEST,
    PLACE,
    RunDirectory,
    StageRecord,
    manifest_text,
    read_manifest,
)

LEASE = 60.0
"""Seconds after which a lock that was not renewed belongs to a killed process."""

LIFE = 30 * 86_400
"""Seconds that an unused copy is kept."""

_LOCK = ".trsr-lock"
_USED = ".used"
_log = logging.getLogger(__name__)


# Local copies


def is_copy(folder: Path) -> bool:
    """Whether this is, in this process, the copy of something remote."""
    return str(folder) in ADDRESSES


def lasting(name: str, folder: Path | None = None) -> Path:
    """A file of a remote run that outlives its copies."""
    return home() / (f"{_key(ADDRESSES[str(folder)])}.{name}" if folder else name)


def _key(url: str) -> str:
    return hashlib.sha256(url.encode()).hexdigest()[:24]


def _copy(url: str, state: str, shown: str = "") -> Path:
    shown = shown or url
    folder = home() / "remote" / _key(url) / state / shown.rpartition("/")[2]
    ADDRESSES[str(folder)] = shown
    return folder


def working_copy(place: Path | str) -> Path:
    """Where a remote run is written on this machine; asks nobody."""
    return _copy(normalized(place), "work")


def local(place: Path | str) -> Path:
    """A run's folder on this machine: of a remote one a snapshot, made now.

    Raises:
        ConfigError: If it is an address that cannot be used.
        StoreError: If there is no run, or the store does not answer.
    """
    return _Snapshot(normalized(place)).folder if is_url(place) else Path(place)


def to_read(folder: Path) -> Path:
    """A run's folder as it is now: of a working copy a snapshot; errors as of `local`."""
    return local(ADDRESSES.get(str(folder), folder))


def data_file(place: str) -> Path:
    """Where remote data lies on this machine: an object, all below a name, or those of a pattern.

    What is new comes when it is looked at.
    """
    url = normalized(place)
    whole = url.split("/")
    signs = (n for n, part in enumerate(whole) if files.has_signs(Path(part)))
    inner = "/".join(whole[next(signs, len(whole)) :])
    folder = _copy(url, "data", url.removesuffix(inner).rstrip("/"))
    lock, seen = threading.RLock(), set[str]()

    def fetch(_: Path) -> None:
        with lock:
            if seen:
                return
            seen.add(url)
            try:
                _fetch_data(url, inner, folder)
            except BaseException:
                seen.clear()
                raise

    files.fetch_below(folder, fetch)
    return folder / inner if inner else folder


def _fetch_data(url: str, inner: str, folder: Path) -> None:
    """Makes a local copy what lies at an address; `inner` is what of it may be a pattern."""
    remote, into, wanted = _wanted(url, inner, folder)
    places = {into / one for one in wanted}
    for path in [folder, *files.walk(folder)]:  # gone, or a folder now, or a file now
        if files.is_folder(path) if path in places else files.is_file(path):
            files.remove(path)
    record = folder.parent / ".version"
    tags = _tags(record)
    old = {one for one in wanted if tags.get(one) == wanted[one].tag and files.is_file(into / one)}
    sizes = {one: found.size for one, found in wanted.items() if one not in old}
    arrived: list[str] = []
    # fetched elsewhere: a thread that looks into the copy itself waits for this one
    with files.temporary_folder(folder.parent) as new:
        try:
            remote.fetch(sizes, new, arrived)
        finally:
            for one in arrived:
                files.make_folder((into / one).parent)
                files.move(new / one, into / one)
                # as it is everywhere: what was made from it still holds
                files.set_time(into / one, wanted[one].changed)
            files.write_json(record, {one: wanted[one].tag for one in (*old, *arrived)})
    _use(folder.parent)


def _wanted(url: str, inner: str, folder: Path) -> tuple[RemoteFolder, Path, dict[str, Found]]:
    """The objects that an address names, where they lie, and the folder that they go into."""
    above, _, name = url.rpartition("/")
    remote = RemoteFolder(above)
    with contextlib.suppress(FileNotFoundError):
        found = remote.found(name)
        if found.size:  # else it may stand for a folder
            return remote, (folder / inner).parent if inner else folder.parent, {name: found}
    remote = RemoteFolder(url.removesuffix(inner).rstrip("/"))
    wanted = {one: found for one, found in remote.tree().items() if _may_match(one, inner)}
    if not wanted:
        raise StoreError(f"{url}: there is no such file or folder, or nothing in it")
    return remote, folder, wanted


def _may_match(name: str, pattern: str) -> bool:
    """Whether an object, or a folder that it lies in, may be one that a pattern names."""
    parts, signs = name.split("/"), pattern.split("/") if pattern else []
    if "**" in signs:
        signs = signs[: signs.index("**")]
    pairs = zip(parts, signs, strict=False)
    return len(parts) >= len(signs) and all(a == b or fnmatchcase(a, b) for a, b in pairs)


def _tags(record: Path) -> dict[str, str]:
    """What the copies were, by name, as `_fetch_data` wrote it; empty where it did not."""
    try:
        return {str(key): str(tag) for key, tag in dict(files.read_json(record)).items()}
    except (OSError, ValueError, TypeError):
        return {}


def _use(folder: Path) -> None:
    """Says that a copy is used, and removes those that were not for long."""
    files.write_bytes(folder / _USED, b"")
    for known in files.listed(home() / "remote", f"*/*/{_USED}"):
        if files.stamp(known)[1] < (time.time() - LIFE) * 1e9:
            files.remove(known.parent)


def _fetch(remote: RemoteFolder, name: str, known: str, target: Path) -> None:
    """Brings a run's file, checked; from another copy where it is the same.

    `known` is its SHA-256; empty where nobody knows it.

    Raises:
        FileNotFoundError: If there is none.
        StoreError: If it is another.
    """
    for other in files.listed(home() / "remote" / _key(remote.url), f"*/{target.parent.name}"):
        path = other / name
        if other != target.parent and known and files.is_at(path) and hash_file(path) == known:
            files.copy(path, target)
            return
    with files.temporary_folder(target.parent.parent) as folder:
        remote.download(name, folder / name)
        if known and hash_file(folder / name) != known:
            raise StoreError(
                f"{remote.url}/{name}: is not what the manifest says (its SHA-256 is another): it "
                "was written meanwhile or altered; give the same command again, or `trsr run "
                f"{remote.url}` to make it anew"
            )
        files.make_folder(target.parent)
        if not (known and files.is_at(target) and hash_file(target) == known):  # another process's
            files.move(folder / name, target)


class _Snapshot:
    """A run as one manifest names it."""

    def __init__(self, url: str) -> None:
        self._remote = RemoteFolder(url)
        found = self._remote.read(MANIFEST)
        if found is None:
            raise StoreError(
                f"{url}: there is no run; make one with `trsr run CONFIG run.folder={url}`"
            )
        records, _ = read_manifest(found[0], f"{url}/{MANIFEST}")
        entries = self._remote.entries()
        # files that were made elsewhere and put there, too
        foreign = {
            name: one.tag
            for name, one in entries.items()
            if not name.startswith(".") and name != MANIFEST
        }
        self._pending = dict.fromkeys(foreign, "")
        self._pending |= {
            name: known
            for record in records.values()
            for name, known in record.files.items()
            if name in entries
        }
        state = json.dumps([n for n in foreign.items() if not self._pending[n[0]]])
        digest = hashlib.sha256(found[0] + state.encode()).hexdigest()
        self.folder = _copy(url, digest[:16])
        files.write_bytes(self.folder / MANIFEST, found[0])
        _use(self.folder.parent)
        self._lock = threading.RLock()
        files.fetch_below(self.folder, self._bring)

    def _bring(self, path: Path) -> None:
        inner = path.relative_to(self.folder).parts[:1] if path != self.folder else ()
        with self._lock:
            known = self._pending.pop(inner[0], None) if inner else None
            if known is None or files.is_at(self.folder / inner[0]):
                return
            try:
                _fetch(self._remote, inner[0], known, self.folder / inner[0])
            except BaseException:
                self._pending[inner[0]] = known
                raise


# Writing


class RemoteRunDirectory(RunDirectory):
    """A run in an object store, and its working copy on this machine."""

    def __init__(self, url: str) -> None:
        super().__init__(working_copy(url))
        self.remote = RemoteFolder(url)
        self._synced = self.folder.parent / ".synced"
        self._lock: _Lock | None = None

    @contextlib.contextmanager
    def locked(self, place: str = PLACE, wait: float = 0) -> Iterator[None]:
        """Keeps other writers out, of this machine and of all; the copy is then the remote run."""
        with super().locked(place, wait):
            state = self._state()
            files.write_json(self._synced, state)  # the copy's name: after a kill the lock is ours
            self._lock = _Lock(self.remote, state["copy"], place)
            with self._lock.held(wait):
                self._sync()
                yield

    def publish(self, *args: Any, **options: Any) -> StageRecord:
        """As `RunDirectory.publish`; ends when the remote run has the stage too."""
        record = super().publish(*args, **options)
        self._push()
        return record

    def write_config(self, text: str) -> None:
        """Writes the settings as they were resolved."""
        super().write_config(text)
        found = self.remote.read(CONFIG)
        if found is None or found[0] != text.encode():
            self.remote.write(CONFIG, text.encode())

    def _state(self) -> dict[str, Any]:
        """The copy's name, and the manifests that the remote run has if nobody else wrote it."""
        try:
            value = json.loads(files.read_text(self._synced))
            return {"copy": str(value["copy"]), "manifests": list(map(str, value["manifests"]))}
        except (OSError, ValueError, KeyError, TypeError):
            return {"copy": uuid.uuid4().hex, "manifests": []}

    def _expect(self, *manifests: bytes) -> None:
        digests = [hashlib.sha256(one).hexdigest() for one in manifests]
        files.write_json(self._synced, self._state() | {"manifests": digests})

    def _sync(self) -> None:
        """Makes the copy what the remote run is, or brings up what an upload left behind."""
        _use(self.folder.parent)
        found, state = self.remote.read(MANIFEST), self._state()
        self._manifest_there = found
        if found is None and state["manifests"]:
            _log.warning("%s: the run was removed; it is made anew", self.remote.url)
            for name in [n for one in self.records().values() for n in one.files]:
                files.remove(self.folder / name)
            files.remove(self.folder / MANIFEST)
        elif found and hashlib.sha256(found[0]).hexdigest() not in state["manifests"]:
            self._pull(found[0])
        self._expect(*([found[0]] if found else []))
        self._push()

    def _pull(self, manifest: bytes) -> None:
        records, _ = read_manifest(manifest, f"{self.remote.url}/{MANIFEST}")
        lost = [
            name
            for name, one in self.records().items()
            if name not in records or records[name].files != one.files
        ]
        if lost:
            _log.warning(
                "%s: another machine went on with this run; what this one made of %s is left out",
                self.remote.url,
                ", ".join(lost),
            )
        files.remove(self.folder / MANIFEST)  # a kill in between: the next one pulls again
        every = {name: known for one in records.values() for name, known in one.files.items()}
        entries = self.remote.entries()
        for name in entries:
            if not name.startswith(".") and name not in (MANIFEST, CONFIG):
                every.setdefault(name, "")
        for name, known in every.items():
            path = self.folder / name
            same = files.is_at(path) and known and hash_file(path) == known
            if name in entries and not same:
                _fetch(self.remote, name, known, path)
        files.write_bytes(self.folder / MANIFEST, manifest)

    def _push(self) -> None:
        """Brings up the stages that the remote run lacks, their files first."""
        records, _ = self._manifest()
        found = self._manifest_there
        there, stopped = read_manifest(found[0], self.remote.url) if found else ({}, [])
        other = {n for n, one in records.items() if there.get(n) != one}
        if not other:
            return
        gone = [n for n in there if n not in records]
        old = {name for n in (*other, *gone) if n in there for name in there[n].files}
        if old:  # a reader must not find a stage half old and half new
            left = {n: one for n, one in there.items() if n not in other and n in records}
            self._replace(manifest_text(left, sorted({*stopped, *other, *gone})).encode())
        names = {name: known for n in sorted(other) for name, known in records[n].files.items()}
        for name, known in names.items():
            path = self.folder / name
            if files.is_at(path) and hash_file(path) == known:
                self.remote.upload(path, name)
        kept = {name for one in records.values() for name in one.files}
        for name in sorted(old - kept):
            self.remote.remove([name, *self.remote.below(name)])
        self._replace(files.read_bytes(self.folder / MANIFEST))

    def _replace(self, manifest: bytes) -> None:
        """Replaces the remote manifest, if it is still the one that was read."""
        found = self._manifest_there
        if self._lock:
            self._lock.check()
        self._expect(*([found[0]] if found else []), manifest)
        try:
            version = self.remote.replace(MANIFEST, manifest, found[1] if found else None)
        except MovedOnError as error:
            raise StoreError(
                f"{self.remote.url}: another trsr has written this run meanwhile; give the same "
                "command again to go on from there"
            ) from error
        self._manifest_there = (manifest, version)
        self._expect(manifest)


class _Lock:
    """An object that says who writes a run, renewed while its holder lives.

    A lock is stale if nobody renews it for `LEASE` seconds by the watching one's clock, so that
    clocks need not agree; or if the copy whose local lock is held here has left it.
    """

    def __init__(self, remote: RemoteFolder, copy: str, place: str) -> None:
        self._remote, self._place = remote, place
        self._own = {"copy": copy, "host": platform.node()[:100], "process": os.getpid()}
        self._version: Version | None = None
        self._renewals = 0
        self._lost = ""
        self._ended = threading.Event()

    @contextlib.contextmanager
    def held(self, wait: float) -> Iterator[None]:
        """Takes the lock, and gives it back after the block.

        Raises:
            StoreError: If another process holds it.
        """
        self._take(time.monotonic() + wait)
        thread = threading.Thread(target=self._renew, name="trsr-lock", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()
            with contextlib.suppress(StoreError):
                self._put({"free": True})

    def check(self) -> None:
        """Refuses to go on without the lock.

        Raises:
            StoreError: If it was lost.
        """
        if self._lost:
            raise StoreError(
                f"{self._remote.url}: the lock was lost ({self._lost}); what was made is kept on "
                "this machine; give the same command again"
            )

    def _take(self, deadline: float) -> None:
        watched, since = None, time.monotonic()
        while True:
            found = self._remote.read(_LOCK)
            content, self._version = found or (b"", None)
            if watched is not None and content != watched and time.monotonic() > deadline:
                _refuse(self._remote.url, content, self._place)
            holder = _holder(content)
            stale = content == watched and time.monotonic() - since >= LEASE
            if not holder or holder.get("copy") == self._own["copy"] or stale:
                try:
                    self._put(self._own)
                except MovedOnError:
                    continue
                if stale:
                    _log.warning(
                        "%s: took over the lock of %s, which had ended without giving it back",
                        self._remote.url,
                        _named(holder),
                    )
                return
            if content != watched:
                if watched is None:
                    _log.warning(
                        "%s: %s holds the lock; watching for at most %.0f s whether it lives",
                        self._remote.url,
                        _named(holder),
                        LEASE,
                    )
                watched, since = content, time.monotonic()
            time.sleep(LEASE / 30)

    def _put(self, state: dict[str, Any]) -> None:
        self._renewals += 1  # other content, so another version
        content = json.dumps({**state, "token": f"{uuid.uuid4().hex}/{self._renewals}"}).encode()
        self._version = self._remote.replace(_LOCK, content, self._version)

    def _renew(self) -> None:
        renewed = time.monotonic()
        while not self._ended.wait(LEASE / 4) and not self._lost:
            try:
                self._put(self._own)
                renewed = time.monotonic()
            except MovedOnError:
                self._lost = "another trsr took it over"
            except StoreError as error:
                if time.monotonic() - renewed > LEASE:
                    self._lost = str(error)


def _holder(content: bytes) -> dict[str, Any]:
    """Who holds a lock; empty where nobody does, or what is there is none."""
    try:
        value = json.loads(content)
    except ValueError:
        return {}
    return value if isinstance(value, dict) and not value.get("free") else {}


def _named(holder: dict[str, Any]) -> str:
    return f"process {holder.get('process')} on {holder.get('host')}"


def _refuse(url: str, content: bytes, place: str) -> None:
    holder = _holder(content)
    if holder:
        raise StoreError(
            f"{url}: another trsr ({_named(holder)}) is writing this folder; wait for it, or "
            f"choose another one with {place}"
        )


def run_directory(folder: Path) -> RunDirectory:
    """A run's directory; of a working copy the remote one."""
    url = ADDRESSES.get(str(folder))
    return RemoteRunDirectory(url) if url else RunDirectory(folder)
