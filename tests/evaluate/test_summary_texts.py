"""What summaries hold: words that stand in the items, in others', twice, or in everybody's."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pipeline_data import write_data

from trsr.config import load_config
from trsr.evaluate.summaries import ToldOf, summary_rows, summary_texts
from trsr.pipeline import run
from trsr.prompts.stems import stems


def test_words_are_looked_for_in_the_items_they_cover_and_in_another_users():
    found = summary_texts(
        [
            ToldOf("a", "likes drills and Drill bits", ["cordless drilling set", "hex bits"]),
            ToldOf("b", "likes paint", ["paint", "brush", "roller", "tape"]),
        ]
    )
    assert found.summaries == 2
    assert found.words.mean == 3.5
    # a: drill and bits of likes, drill, and, bits; b: paint of likes, paint
    assert found.grounded.mean == pytest.approx((2 / 4 + 1 / 2) / 2)
    assert found.elsewhere.mean == 0
    assert found.covered.mean == pytest.approx((1 + 1 / 4) / 2)
    assert found.repeated.mean == pytest.approx((1 / 5 + 0) / 2)
    assert found.shared == 0


def test_words_that_most_summaries_have_are_their_form():
    told = [ToldOf(str(n), f"the user likes {5 * chr(97 + n)}", ["the user"]) for n in range(10)]
    assert summary_texts(told).grounded.mean == 0
    assert summary_texts(told[:3]).grounded.mean > 0  # too few to tell form from content


def test_a_text_that_fits_anybody_is_as_grounded_elsewhere_and_is_shared():
    told = [ToldOf(str(n), "action film", ["Action", "Film"]) for n in range(4)]
    found = summary_texts(told)
    assert found.grounded.mean == found.elsewhere.mean == 1
    assert found.shared == 1


def test_one_users_summaries_are_neither_shared_nor_compared_with_each_other():
    told = [ToldOf("a", "action films", ["action"]) for _ in range(3)]
    found = summary_texts(told)
    assert found.shared == 0
    assert found.elsewhere.mean is None
    assert dict(summary_rows(found))["its words that stand in another user's items"] == "–"


def test_texts_without_blanks_and_of_other_scripts_have_words():
    assert stems("電動ドリル") == list("電動ドリル")
    assert stems("Дрели и свёрла") == ["дрели", "свёрл"]


@given(
    st.lists(
        st.builds(
            ToldOf,
            st.sampled_from("abc"),
            st.text(alphabet="ab d電", max_size=12),
            st.lists(st.text(alphabet="ab d電", max_size=8), max_size=3),
        ),
        max_size=12,
    )
)
def test_all_shares_are_shares(told):
    found = summary_texts(told)
    for one in (found.grounded, found.elsewhere, found.covered, found.repeated):
        assert one.mean is None or 0 <= one.mean <= 1
    assert found.shared is None or 0 <= found.shared <= 1


CONFIG = """
[data]
interactions = "clicks.csv"
items = "products.jsonl"
min_history = 4
negatives = 6

[model]
backend = "scripted"
name = "scripted"

[summarize]
block_items = 2

[train]
epochs = 0

[rank]
rankers = ["untuned"]
"""


@pytest.mark.parametrize("strategy", ["none", "recurrent"])
def test_the_report_tells_them_where_there_are_summaries(tmp_path, strategy):
    write_data(tmp_path, users=12, items=40)
    (tmp_path / "mine.toml").write_text(CONFIG)
    settings = [f"run.folder={tmp_path / 'run'}", f"summarize.strategy={strategy}"]
    list(run(load_config(tmp_path / "mine.toml", settings)))
    told = json.loads((tmp_path / "run" / "report.json").read_text("utf-8"))["summaries"]
    page = (tmp_path / "run" / "report.html").read_text("utf-8")
    text = (tmp_path / "run" / "report.md").read_text("utf-8")
    if strategy == "none":
        assert told is None
    else:
        assert told["summaries"] == 12
        assert told["words"]["mean"] > 0
    assert ('id="summaries"' in page) == ("## Summaries" in text) == (strategy != "none")
