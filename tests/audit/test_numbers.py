"""The number of an item's text, as the audit reads it."""

from __future__ import annotations

import math

from trsr.experiments.audit.text_number import mostly_years, number_in


def test_a_text_gives_its_last_year_or_its_first_number() -> None:
    assert number_in("1984 (1956), 120 min", years=True) == 1956
    assert number_in("3.5 inch, 12 pieces of 1999", years=False) == 3.5
    assert math.isnan(number_in("Apollo 13", years=True))
    assert math.isnan(number_in("19956", years=True))  # five digits are no year
    assert math.isnan(number_in("", years=False))
    assert mostly_years(["in 1999", "in 2001", ""])
    assert not mostly_years(["in 1999", "12", "", "in 2001"])  # half is not most
    assert not mostly_years([])
