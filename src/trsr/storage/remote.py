"""Folders in object stores (S3, Google Cloud Storage, Azure), by URL.

Their conditional writes are what a lock and a manifest need there: a write that names the version
it replaces fails where another writer was first. HDFS has none, so it is refused.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import platformdirs

from trsr.errors import ConfigError, StoreError
from trsr.storage import files
from trsr.storage.addresses import WATCHERS

PARALLEL = 8
"""Objects under way at one time."""

_URL = re.compile(r"\s*([a-z][a-z0-9+.-]+):/+(.*)", re.DOTALL | re.IGNORECASE)
# a Path has lost a slash; S3:// and a blank before are refused, and no folder of this machine
_SCHEMES = ("s3", "gs", "az", "abfs", "abfss")
_CHUNK = 8 * 2**20
_RETRIES = {"max_retries": 4, "retry_timeout": timedelta(seconds=60)}
_TIMES = {"connect_timeout": "10s", "read_timeout": "60s", "timeout": "6h"}
_NAME = re.compile(r"[^/\\\x00-\x1f]{1,200}")


@contextlib.contextmanager
def transfer(name: str, size: int) -> Iterator[Callable[[int], None]]:
    """A bar over a transfer of `size` bytes; gives what is called with each number of new bytes."""
    if not WATCHERS or size < _CHUNK:
        yield lambda count: None
        return
    with WATCHERS[0](name) as bar:
        bar.begin(size >> 20, "MiB")
        done, lock = 0, threading.Lock()

        def advance(count: int) -> None:
            nonlocal done
            with lock:  # several objects are under way
                bar.advance(((done + count) >> 20) - (done >> 20))
                done += count

        yield advance


def home() -> Path:
    """Where fetched, copied and converted files lie: TRSR_CACHE, else the user's cache."""
    chosen = os.environ.get("TRSR_CACHE") or platformdirs.user_cache_dir("trsr")
    return Path(files.absolute(chosen))


def is_url(place: Path | str) -> bool:
    """Whether it is the address of a folder or file elsewhere; a `Path` of one too."""
    return _URL.match(str(place)) is not None


def normalized(place: Path | str) -> str:
    """An address as it is kept: `s3://bucket/folder`.

    Raises:
        ConfigError: If it is of another kind, names no folder, or holds what may be a secret.
    """
    found = _URL.fullmatch(str(place))
    scheme, rest = found.groups() if found else ("", "")
    parts = rest.strip("/").split("/")
    account = parts[0].rpartition("@")[0]
    if "?" in rest or ":" in account or (account and not scheme.startswith("abfs")):
        raise ConfigError(
            "an address of a store holds a secret or a query; name the folder alone, and give "
            "credentials as the store's own programs take them (AWS_ACCESS_KEY_ID, …)"
        )
    if scheme == "hdfs":
        raise ConfigError(
            f"{place}: HDFS has no conditional writes, so trsr cannot lock a run there; mount it, "
            "and name the folder"
        )
    if scheme not in _SCHEMES:
        raise ConfigError(f"{place}: give a folder, or an address {'://…, '.join(_SCHEMES)}://…")
    if len(parts) < 2 or not all(_is_plain(part) for part in parts):
        raise ConfigError(
            f"{scheme}://{rest}: name a folder in the bucket, such as {scheme}://bucket/runs/x"
        )
    return f"{scheme}://{'/'.join(parts)}"


def _is_plain(part: str) -> bool:
    return _NAME.fullmatch(part) is not None and part not in (".", "..")


class Version(NamedTuple):
    """Which state of an object was read."""

    tag: str | None
    number: str | None


class MovedOnError(StoreError):
    """Another writer has replaced the object since it was read."""


class Entry(NamedTuple):
    """An object, or all objects below a name; `tag` changes with the content."""

    size: int
    tag: str


class Found(NamedTuple):
    """An object's bytes, what changes with its content, and when it was written."""

    size: int
    tag: str
    changed: float


def _state(found: Any) -> Found:
    changed = found["last_modified"]
    return Found(int(found["size"]), str(found["e_tag"] or changed), changed.timestamp())


class RemoteFolder:
    """Objects below an address, by name.

    Raises:
        ConfigError: If the library is missing, or the store's own settings cannot be used.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        try:
            import obstore
        except ImportError as error:
            scheme = url.partition("://")[0]
            extra = "s3" if scheme == "s3" else "remote"
            raise ConfigError(
                f"{url}: {scheme}:// needs obstore, which is not installed: "
                f"pip install 'trsr[{extra}]'"
            ) from error
        self._api = obstore
        with self._explained():
            self._store = _open(url)

    def read(self, name: str) -> tuple[bytes, Version] | None:
        """An object's bytes and version; None where there is none."""
        try:
            with self._explained():
                found = self._api.get(self._store, name)
                content = bytes(found.bytes())
        except FileNotFoundError:
            return None
        return content, Version(found.meta["e_tag"], found.meta["version"])

    def found(self, name: str) -> Found:
        """An object's state.

        Raises:
            FileNotFoundError: If there is no such object.
        """
        with self._explained():
            return _state(self._api.head(self._store, name))

    def write(self, name: str, content: bytes) -> None:
        """Writes an object, whatever was there."""
        with self._explained():
            self._api.put(self._store, name, content)

    def replace(self, name: str, content: bytes, version: Version | None) -> Version:
        """Writes an object if it is still as it was read.

        The content differs from what was there before; without a version nothing was.

        Raises:
            MovedOnError: If another writer was first.
        """
        known = {"e_tag": version.tag, "version": version.number} if version else {}
        mode: Any = {key: one for key, one in known.items() if one} if version else "create"
        errors = self._api.exceptions
        try:
            with self._explained():
                made = self._api.put(self._store, name, content, mode=mode, use_multipart=False)
        except (errors.PreconditionError, errors.AlreadyExistsError, FileNotFoundError) as error:
            # an answer that was lost, and the write tried again: it was this one that was first
            found = self.read(name)
            if found is not None and found[0] == content:
                return found[1]
            raise MovedOnError(f"{self.url}/{name}: another writer was first") from error
        return Version(made["e_tag"], made["version"])

    def entries(self) -> dict[str, Entry]:
        """What lies in the folder, by name; of a folder within, its objects' number of bytes."""
        with self._explained():
            found = self._api.list_with_delimiter(self._store)
        plain = {
            one["path"]: Entry(one["size"], str(one["e_tag"] or one["last_modified"]))
            for one in found["objects"]
        }
        return plain | {name: Entry(0, "") for name in found["common_prefixes"]}

    def below(self, name: str) -> dict[str, int]:
        """The objects below a name, however many, and their sizes; empty for a single object.

        Raises:
            StoreError: If a name leads elsewhere.
        """
        with self._explained():
            pages = list(self._api.list(self._store, prefix=name, chunk_size=1000))
        found = {one["path"]: int(one["size"]) for page in pages for one in page}
        for path in found:
            if not path.startswith(f"{name}/") or not all(map(_is_plain, path.split("/"))):
                raise StoreError(f"{self.url}: holds the object {path!r}, which trsr did not write")
        return found

    def tree(self) -> dict[str, Found]:
        """The objects in the folder and below, by the names that a file on a disk can have.

        Those without bytes are left out: a console makes them to stand for folders.
        """
        with self._explained():
            pages = list(self._api.list(self._store, chunk_size=1000))
        found = {one["path"]: _state(one) for page in pages for one in page}
        return {
            name: one
            for name, one in found.items()
            if one.size and all(map(_is_plain, name.split("/")))
        }

    def fetch(self, sizes: Mapping[str, int], folder: Path, arrived: list[str]) -> None:
        """Copies objects into a folder, and adds the name of each that is there to `arrived`."""
        with transfer(f"download {self.url.rpartition('/')[2]}", sum(sizes.values())) as advance:

            def bring(name: str) -> None:
                self._download(name, folder / name, advance)
                arrived.append(name)

            self._each(bring, list(sizes))

    def upload(self, path: Path, name: str) -> None:
        """Copies a file, or a folder's files, here; those here already are passed over.

        Raises:
            StoreError: If one does not arrive whole.
        """
        inner = {f"{name}/{one.relative_to(path).as_posix()}": one for one in files.walk(path)}
        inner = inner if files.is_folder(path) else {name: path}
        given = {key: one for key, one in inner.items() if files.is_file(one)}
        sizes = {key: files.size(one) for key, one in given.items()}
        there = self._sizes(name)
        with transfer(f"upload {name}", sum(sizes.values())) as advance:

            def bring(key: str) -> None:
                digest = files.hash_file(given[key])
                if there.get(key) == sizes[key] and self._digest(key) == digest:
                    advance(sizes[key])
                else:
                    self._upload(given[key], key, digest, advance)

            self._each(bring, list(given))
        there = self._sizes(name)
        self.remove([key for key in there if key not in given])
        if any(there.get(key) != size for key, size in sizes.items()):
            raise StoreError(
                f"{self.url}/{name}: did not arrive whole, or another program wrote it; give the "
                "same command again"
            )

    def _upload(self, path: Path, name: str, digest: str, advance: Callable[[int], None]) -> None:
        with self._explained(), files.open_read(path) as file:
            content: Any = _pieces(file, advance)
            if files.size(path) <= _CHUNK:
                content = b"".join(content)
            self._api.put(self._store, name, content, attributes={"sha256": digest})

    def _digest(self, name: str) -> str | None:
        """The SHA-256 that was written beside an object."""
        with self._explained():
            return self._api.get(self._store, name, options={"head": True}).attributes.get("sha256")

    def _sizes(self, name: str) -> dict[str, int]:
        """The object of a name, or those below it, and their sizes."""
        with contextlib.suppress(FileNotFoundError), self._explained():
            return {name: int(self._api.head(self._store, name)["size"]), **self.below(name)}
        return self.below(name)

    def download(self, name: str, path: Path) -> None:
        """Copies an object, or all below a name, to `path`.

        Raises:
            FileNotFoundError: If there is neither.
            StoreError: If a name leads elsewhere.
        """
        inner = self.below(name)
        if not inner:
            size = self._sizes(name).get(name)
            if size is None:
                raise FileNotFoundError(f"{self.url}/{name}")
            with transfer(f"download {name}", size) as advance:
                self._download(name, path, advance)
            return
        with transfer(f"download {name}", sum(inner.values())) as advance:
            self._each(
                lambda key: self._download(key, path / key.removeprefix(f"{name}/"), advance),
                list(inner),
            )

    def _download(self, name: str, path: Path, advance: Callable[[int], None]) -> None:
        with self._explained(), files.writing(path) as file:
            for piece in self._api.get(self._store, name).stream(min_chunk_size=_CHUNK):
                file.write(piece)
                advance(len(piece))

    def _each(self, work: Callable[[str], None], names: list[str]) -> None:
        with ThreadPoolExecutor(PARALLEL) as pool:
            try:
                list(pool.map(work, names))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def remove(self, names: list[str]) -> None:
        """Removes objects; those that are not there are passed over."""
        if names:
            with contextlib.suppress(FileNotFoundError), self._explained():
                self._api.delete(self._store, names)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        errors = self._api.exceptions
        try:
            yield
        except (FileNotFoundError, errors.PreconditionError, errors.AlreadyExistsError) as error:
            if "NoSuchBucket" in str(error) or "ContainerNotFound" in str(error):
                raise StoreError(f"{self.url}: there is no such bucket; make it first") from error
            raise
        except (errors.BaseError, ValueError) as error:
            raise StoreError(f"{self.url}: {_reason(error, errors)}") from error


def _pieces(file: Any, advance: Callable[[int], None]) -> Iterator[bytes]:
    for piece in iter(functools.partial(file.read, _CHUNK), b""):
        yield piece
        advance(len(piece))


_SIGNS = (
    ("NoSuchBucket|ContainerNotFound", "there is no such bucket; make it first"),
    (
        "/latest/(api|meta)|metadata|[Cc]redential|authenticat|Missing ?(Acc|Sec)",
        "no credentials were found; give them as the store's own programs take them, such as "
        "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (of ~/.aws with pip install 'trsr[s3]')",
    ),
    (
        "sending request|HTTP error|[Tt]imed? ?out",
        "the store cannot be reached; check the network and the endpoint (AWS_ENDPOINT_URL)",
    ),
)


def _reason(error: Exception, errors: Any) -> str:
    """What to do; of the library's own words one line, without what a query might hold."""
    if isinstance(error, errors.PermissionDeniedError):
        return "access is denied; ask for the right to list, read, write and delete there"
    if isinstance(error, errors.UnauthenticatedError):
        return "the store refused the credentials; check that they are right and still hold"
    text = str(error)
    known = next((words for signs, words in _SIGNS if re.search(signs, text)), "")
    return known or re.sub(r"\?\S*", "", next(iter(text.splitlines()), ""))[:300]


def _open(url: str) -> Any:
    from obstore.store import from_url

    options: dict[str, Any] = {"client_options": dict(_TIMES), "retry_config": _RETRIES}
    if url.startswith("s3://"):
        names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
        endpoint = next((os.environ[name] for name in names if os.environ.get(name)), "")
        if endpoint:
            options["endpoint"] = endpoint
            options["client_options"]["allow_http"] = endpoint.startswith("http://")
        if "AWS_ACCESS_KEY_ID" not in os.environ and _has_profile():
            from obstore.auth.boto3 import Boto3CredentialProvider

            options["credential_provider"] = Boto3CredentialProvider()
    return from_url(url, **options)


def _has_profile() -> bool:
    """Whether boto3 is there and finds credentials of its own kinds, such as those of ~/.aws."""
    folder = Path("~/.aws").expanduser()
    if not os.environ.get("AWS_PROFILE") and not files.is_folder(folder):
        return False
    with contextlib.suppress(ImportError):
        import boto3

        return boto3.Session().get_credentials() is not None
    return False
