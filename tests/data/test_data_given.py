"""Items given by hand, a line each."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from trsr.data import Catalog
from trsr.data.requests import read_items
from trsr.errors import DataError

CATALOG = Catalog(pl.DataFrame({"id": ["p1", "2"], "title": ["a hinge", "a lamp"]}))


def test_items_are_ids_of_the_catalogue_or_have_texts_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "c.txt"
    path.write_text('p1\n\n2\n{"id": "n1", "title": "a bolt"}\n')
    assert [item.id for item in read_items(path, CATALOG)] == ["p1", "2", "n1"]
    assert dict(read_items(path, CATALOG)[2].fields) == {"title": "a bolt"}


@pytest.mark.parametrize("again", ["p1", '"p1"', '{"id": "p1"}', '{"id": "p1", "title": "new"}'])
def test_an_item_that_stands_twice_is_named_with_its_line(tmp_path: Path, again: str) -> None:
    path = tmp_path / "c.txt"
    path.write_text(f"p1\n2\n\n{again}\n")
    with pytest.raises(DataError, match=r"c\.txt, line 4: the item 'p1' stands on a line before"):
        read_items(path, CATALOG)
