"""MovieLens-100K from its publisher, written as RecBole atomic files."""

from __future__ import annotations

import zipfile
from pathlib import Path

from trsr.hub.packages import BROKEN_ZIP
from trsr.hub.web import NotHereError, check, download, probe
from trsr.progress import Progress
from trsr.storage import files

MOVIELENS_URL = "https://files.grouplens.org/datasets/movielens/ml-100k.zip"
MOVIELENS_MD5 = "0e33842e24a9c977be4e0107933c0723"  # as the publisher gives it

# The order of the 19 flags at the end of each line of MovieLens' u.item.
_GENRES = (
    *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime"),
    *("Documentary", "Drama", "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery"),
    *("Romance", "Sci-Fi", "Thriller", "War", "Western"),
)


def movielens(made: Path, progress: Progress) -> str:
    """MovieLens-100K from its publisher, written as RecBole atomic files."""
    archive = made / "ml-100k.zip"
    probe(MOVIELENS_URL)
    download(MOVIELENS_URL, archive, progress)
    check(archive, "md5", MOVIELENS_MD5, archive.name)
    try:
        with files.open_read(archive) as stream, zipfile.ZipFile(stream) as packed:
            ratings = packed.read("ml-100k/u.data").decode("latin-1")
            movies = packed.read("ml-100k/u.item").decode("latin-1")
    except BROKEN_ZIP as error:
        raise NotHereError(f"{archive.name}: {error}") from error
    files.write_text(
        made / "ml-100k.inter",
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n" + _lines(ratings),
    )
    files.write_text(
        made / "ml-100k.item",
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
        + _lines("\n".join(_movie(line) for line in movies.splitlines() if line.strip())),
    )
    files.remove(archive)
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
