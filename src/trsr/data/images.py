"""The items' images: found by a column or by id, checked one by one, and copied into the run."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from trsr.data.ids import id_text
from trsr.data.readers.base import Source
from trsr.data.report import RowCounts
from trsr.data.settings import READERS, DataSettings
from trsr.errors import DataError, TrsrError
from trsr.progress import Progress
from trsr.registry import optional
from trsr.settings import digest
from trsr.storage import files
from trsr.storage.images import FORMATS, ImageError, check

TABLE = "images.parquet"
"""Of each item its image's file in `FOLDER`, or why it has none."""
FOLDER = "images"
"""The images' files, named by their content."""
MAX_PIXELS = 50_000_000
"""An image with more is not decoded, and counts as none: decoded it would take hundreds of MB."""
SCHEMA = pl.Schema({"id": pl.String(), "file": pl.String(), "why": pl.String()})
_ENDINGS = frozenset({*FORMATS.values(), "jpeg", "tif"})
_NONE = "no image is given"
_NAMED = 3  # items named of each kind of fault

Reference = Path | bytes | str
"""A file, its bytes, or what is wrong."""


@dataclass(frozen=True)
class ItemImages:
    """Where each item's image is.

    Attributes:
        items: The items' file, for messages.
        of: By item id; an item without one is left out.
    """

    items: Path
    of: Mapping[str, Reference]

    def stamp(self) -> str:
        """A hash that is another one where a file is."""
        paths = [one for one in self.of.values() if isinstance(one, Path) and files.is_file(one)]
        return digest([(one.name, *files.stamp(one)) for one in paths])


def split_images(source: Source, settings: DataSettings) -> tuple[pl.LazyFrame, ItemImages | None]:
    """The items without their images, and the images.

    `data.images` is a column of the items, or else a folder whose files are named by item ids.
    Paths stand beside the items' file, and may not lead out of its folder.

    Raises:
        DataError: If there is neither such a column nor such a folder.
        ConfigError: If Pillow is not installed.
    """
    if not settings.images:
        return source.items, None
    optional("PIL.Image", "images", "data.images")
    base = source.items_path.parent
    names = source.items.collect_schema().names()
    if settings.images in names:
        rows = source.items.select("id", settings.images).collect()
        ids = id_text(rows["id"], source.items_path, source.encoding)
        cells = rows[settings.images].to_list()
        pairs = zip(ids.to_list(), map(_first, cells), strict=True)
        found = {item: _reference(one, base) for item, one in pairs if item and one is not None}
        return source.items.drop(settings.images), ItemImages(source.items_path, found)
    folder = base / settings.images
    if not files.is_folder(folder):
        raise DataError(
            f"{source.items_path}: data.images is {settings.images!r}, which is neither a column "
            f"of the items ({', '.join(names)}) nor a folder beside their file"
        )
    by_name = {path.stem: path for path in reversed(files.listed(folder)) if _is_named(path)}
    return source.items, ItemImages(source.items_path, dict(by_name))


def image_stamp(settings: DataSettings) -> str:
    """A hash that is another one where an image's file is; empty where that is not known."""
    try:
        found = split_images(READERS.load(settings.reader)().read(settings), settings)[1]
    except (TrsrError, OSError, ValueError):  # who reads the data says what is wrong
        return ""
    return found.stamp() if found else ""


def _is_named(path: Path) -> bool:
    return path.suffix.lower().lstrip(".") in _ENDINGS


def _first(cell: object) -> object:
    """The first of several images; of a table of the library datasets, its bytes or path."""
    if isinstance(cell, list):
        return _first(cell[0]) if cell else None
    if isinstance(cell, dict):
        return cell.get("bytes") or cell.get("path")
    return None if cell in ("", b"") else cell


def _reference(cell: object, base: Path) -> Reference:
    if isinstance(cell, bytes):
        return cell
    name = str(cell).strip()
    if "://" in name:
        return "is an address, and nothing is fetched"
    root = os.path.realpath(base)
    path = os.path.realpath(os.path.join(root, name))
    if os.path.commonpath([root, path]) != root:
        return "lies outside the folder of the items' file"
    return Path(path)


def write_images(
    images: ItemImages,
    ids: Sequence[str],
    settings: DataSettings,
    out: Path | None,
    row_counts: RowCounts,
    progress: Progress,
) -> None:
    """Checks the images of items, and writes `TABLE` and `FOLDER`; each content is kept once.

    Without a folder nothing is written.

    Raises:
        DataError: If more items than `data.max_without_image` have no image that can be used; says
            all that is wrong.
    """
    progress.begin(len(ids), "images")
    checked = _Checked(images, out)
    rows: list[tuple[str, str | None, str]] = []
    # Pillow warns of sizes that are refused here anyway; decoders run without the GIL
    with warnings.catch_warnings(), ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        warnings.simplefilter("ignore")
        for item, (name, why) in zip(ids, pool.map(checked, ids), strict=True):
            rows.append((item, name or None, why))
            progress.advance(1)
    frame = pl.DataFrame(rows, SCHEMA, orient="row")
    if out is not None:
        files.write_parquet(frame, out / TABLE)
    used = frame["file"].drop_nulls()
    row_counts.add("images", len(used))
    row_counts.add("images_distinct", used.n_unique())
    reasons = Counter(why for _, _, why in rows if why)
    row_counts.add("items_without_image", reasons[_NONE])
    row_counts.add("images_unusable", reasons.total() - reasons[_NONE])
    faults = list(_faults(rows))
    for text in faults:
        row_counts.warn(f"{images.items}: {text}")
    without = reasons.total()
    if without > settings.max_without_image * len(ids):
        raise DataError(
            "\n".join(
                [
                    f"{images.items}: {without:,} of {len(ids):,} items have no image that can be "
                    "used, a larger share than data.max_without_image "
                    f"({settings.max_without_image:.0%}); mend them, or raise it and they are "
                    "shown as having none:",
                    *faults,
                ]
            )
        )


def _faults(rows: Sequence[tuple[str, str | None, str]]) -> Iterator[str]:
    """A line for each kind of fault, with some items' names."""
    by_kind: dict[str, list[tuple[str, str]]] = {}
    for item, _, why in rows:
        if why:
            by_kind.setdefault(why.partition(" (")[0], []).append((item, why))
    for kind, found in sorted(by_kind.items(), key=lambda one: -len(one[1])):
        named = ", ".join(item for item, _ in found[:_NAMED])
        more = ", …" if len(found) > _NAMED else ""
        ((example, _),) = Counter(why for _, why in found).most_common(1)
        detail = f" ({example.partition(' (')[2]}" if example != kind else ""
        yield f"{len(found):,} item{'s' * (len(found) > 1)}: {kind}{detail}: {named}{more}"


@dataclass(frozen=True)
class _Checked:
    """Checks and copies one item's image: its file's name, or why there is none."""

    images: ItemImages
    out: Path | None

    def __call__(self, item: str) -> tuple[str, str]:
        found = self.images.of.get(item)
        if found is None:
            return "", _NONE
        if isinstance(found, str):
            return "", f"the image {found}"
        try:
            data = found if isinstance(found, bytes) else self._read(found)
            ending = check(data, MAX_PIXELS)
        except ImageError as error:
            return "", f"the image {error}"
        name = f"{hashlib.sha256(data).hexdigest()}.{ending}"
        if self.out is not None and not files.exists(self.out / FOLDER / name):
            files.write_bytes(self.out / FOLDER / name, data)
        return name, ""

    def _read(self, path: Path) -> bytes:
        try:
            # more bytes than so many pixels need in any format
            if files.size(path) > 8 * MAX_PIXELS + 2**20:
                raise ImageError(f"is a file too large for {MAX_PIXELS:,} pixels")
            return files.read_bytes(path)
        except FileNotFoundError:
            raise ImageError(f"is a file that is missing ({path.name})") from None
        except OSError as error:
            raise ImageError(f"cannot be read ({error})") from error
