"""Reads MovieLens as GroupLens publishes it: 100K, 1M and 10M, and the CSV sets (latest, 20M …).

Formats: the README files of https://grouplens.org/datasets/movielens/
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from trsr.data import inputs
from trsr.data.delimited import Dialect, delimited
from trsr.data.readers.base import Source, must_have
from trsr.data.settings import DataSettings
from trsr.errors import DataError
from trsr.storage import files

_GENRES = (
    *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime"),
    *("Documentary", "Drama", "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery"),
    *("Romance", "Sci-Fi", "Thriller", "War", "Western"),
)
"""The order of the 19 flags in `u.item`."""

_KINDS = (("u.data", "u.item"), ("ratings.dat", "movies.dat"), ("ratings.csv", "movies.csv"))
_ROLES = ("user", "item", "rating", "time")


class MovieLensReader:
    """A folder as unpacked from the publisher's archive, known by the files in it."""

    def read(self, settings: DataSettings) -> Source:
        """Opens the ratings and the films; the year stays in the title, genres are text."""
        folder = inputs.existing(settings.interactions, "interactions", "MovieLens' folder")
        folder = folder if files.is_folder(folder) else folder.parent
        kind = next(
            (names for names in _KINDS if all(files.is_file(folder / n) for n in names)), None
        )
        if kind is None:
            wanted = "; or ".join(" and ".join(names) for names in _KINDS)
            raise DataError(f"{folder}: is not a MovieLens folder: {wanted} must be in it")
        ratings, films = folder / kind[0], folder / kind[1]
        separator = {"u.data": "\t", "ratings.dat": "::", "ratings.csv": ","}[kind[0]]
        header = kind[0] == "ratings.csv"
        frame = delimited(
            inputs.a_file(ratings, "interactions", "ratings"),
            dialect=Dialect(separator, quoted=False),
            header=header,
        )
        if len(frame.names) < len(_ROLES):
            raise DataError(f"{ratings}, line 1: user, film, rating and time are needed")
        items, notes = _films(inputs.a_file(films, "items", "films"))
        return Source(
            interactions=frame.frame.select(
                pl.col(name).alias(role) for name, role in zip(frame.names, _ROLES, strict=False)
            ),
            items=items,
            interactions_path=ratings,
            items_path=films,
            warnings=frame.notes + notes,
        )


def _films(path: Path) -> tuple[pl.LazyFrame, tuple[str, ...]]:
    header = path.name == "movies.csv"
    separator = {"movies.csv": ",", "movies.dat": "::"}.get(path.name, "|")
    dialect = Dialect(separator, quoted=header)
    films = delimited(path, dialect=dialect, header=header, encoding=_encoding(path))
    names = ("movieId", "title", "genres") if header else ("1", "2", "3")
    must_have(films.names, names, path)
    if path.name == "u.item":
        return _with_flags(path, films), films.notes
    genres = pl.col(names[2]).str.replace_all("|", ", ", literal=True)
    genres = genres.replace("(no genres listed)", None)
    return films.frame.select(id=names[0], title=names[1], genres=genres), films.notes


def _with_flags(path: Path, films: inputs.Table) -> pl.LazyFrame:
    width = len(films.names)
    if width != 5 + len(_GENRES):
        raise DataError(f"{path}, line 1: {width} fields, u.item has {5 + len(_GENRES)}")
    flags = [
        pl.when(pl.col(str(place)) == "1").then(pl.lit(genre))
        for place, genre in enumerate(_GENRES, 6)
        if genre != "unknown"
    ]
    genres = pl.concat_str(flags, separator=", ", ignore_nulls=True)
    return films.frame.select(id="1", title="2", genres=genres)


def _encoding(path: Path) -> str:
    """UTF-8 where the whole file is; the older sets are in Latin-1."""
    try:
        files.read_text(path)
    except UnicodeDecodeError:
        return "latin-1"
    return "utf-8"
