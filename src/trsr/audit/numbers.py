"""Numbers of items: in their ids, and in the texts that a model is told of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from trsr.audit.text_number import ENOUGH, mostly_years, number_in
from trsr.data import Catalog
from trsr.prompts import PromptSettings
from trsr.prompts.text import tell

Values = npt.NDArray[np.float64]


def numbers_of(ids: Sequence[str]) -> Values | None:
    """Item ids as numbers: digits after a common beginning, or capitals and digits of one length.

    The second are Amazon's: in base 36 they rise with the time of their making. None: no numbers.
    """
    found = [re.fullmatch(r"(\D*)(\d{1,15})", one) for one in ids]
    if all(found) and len({match[1] for match in found if match}) == 1:
        return np.array([float(match[2]) for match in found if match])
    if len({len(one) for one in ids}) == 1 and all(
        re.fullmatch(r"[0-9A-Z]{2,12}", one) for one in ids
    ):
        return np.array([float(int(one, 36)) for one in ids])
    return None


def told_numbers(
    settings: PromptSettings, catalog: Catalog, rows: Sequence[int]
) -> Iterator[tuple[str, Values]]:
    """A number an item, of each told field in which most items have one.

    Args:
        settings: The fields that are told, and how much of them.
        catalog: All items.
        rows: The items asked about.

    Yields:
        The field, with what was taken of it, and a number for each item of the catalogue; NaN for
        an item not asked about, or without a number.
    """
    ids = catalog.ids
    told: dict[str, dict[int, str]] = {}
    for row in rows:
        line = tell(catalog[ids[row]], settings.fields, settings.words, settings.field_words, "")
        for field, text in line.pairs:
            told.setdefault(field, {})[row] = text
    for field, texts in told.items():
        years = mostly_years([texts.get(row, "") for row in rows])
        values = np.full(len(ids), np.nan)
        for row, text in texts.items():
            values[row] = number_in(text, years=years)
        if (~np.isnan(values)).sum() >= ENOUGH * len(rows):
            yield f"{'year' if years else 'number'} of {field}", values
