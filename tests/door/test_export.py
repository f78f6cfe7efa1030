"""`trsr export`: each format is opened by its own library alone, and ranks the same."""

from __future__ import annotations

import pytest

from trsr.export import FORMATS, export


@pytest.mark.parametrize("to", [name for name in FORMATS if name != "card"])
def test_each_library_ranks_the_same_alone(trained_run, tmp_path, to):
    found = export(trained_run, to, tmp_path / to, queries=2)
    assert found.unchecked == ""
    assert len(found.correlations) == 2
    assert min(found.correlations) > 0.95, found
