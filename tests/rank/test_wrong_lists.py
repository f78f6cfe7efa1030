"""Lists that are not of just their query's candidates, from each place that asks a ranker."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator

import polars as pl
import pytest

from trsr.data import Catalog
from trsr.errors import DataError, PromptError
from trsr.rank import RANKERS, RankContext, RankSettings, checked, make_ranker, rank_what_fits
from trsr.rank.blend import BlendRanker
from trsr.rank.simple import RandomRanker
from trsr.rank.tune import QueryRanker, tuned
from trsr.types import Case, Entry, Item, Query, RankedList, UserHistory

ITEMS = [Item(f"i{n}") for n in range(12)]
LOG = pl.DataFrame({"user": ["u", "v"], "item": ["i0", "i1"], "time": [1.0, 2.0]})


def query(name: str, user: str = "u") -> Query:
    return Query(name, UserHistory(user, ()), tuple(ITEMS[:5]))


QUERIES = [query(f"q{n}") for n in range(6)]


class Wrong:
    """Right until the query q3."""

    def __init__(self, how: str) -> None:
        self.how = how

    def rank(self, queries: Iterable[Query]) -> Iterator[RankedList]:
        for one in queries:
            entries = [Entry(item.id, -float(n)) for n, item in enumerate(one.candidates)]
            if one.id == "q3":
                if self.how == "skips":
                    continue
                entries = self.changed(entries)
            yield RankedList(one.id, tuple(entries))

    def changed(self, entries: list[Entry]) -> list[Entry]:
        return {
            "omits": entries[:-2],
            "empty": [],
            "invents": [Entry("zzz", 5.0), *entries],
            "swaps": [Entry("zzz", 5.0), *entries[1:]],
            "twice": [*entries, Entry(entries[0].item, -99.0)],
            "not a number": [*entries[:-1], Entry(entries[-1].item, math.nan)],
            "unsorted": entries[::-1],
        }[self.how]


SAID = {
    "omits": r"query q3 leaves out 2 \(first: i3\), where 5 candidates are asked",
    "empty": r"query q3 leaves out 5 \(first: i0\)",
    "invents": r"query q3 invents 1 \(first: zzz\)",
    "swaps": r"query q3 leaves out 1 \(first: i0\) and invents 1 \(first: zzz\)",
    "twice": "query q3: an item is ranked twice",
    "not a number": "query q3: a score is not a number",
    "unsorted": "query q3: the entries are not sorted",
    "skips": "answered query q4 where q3 was due",
}


@pytest.fixture(params=SAID)
def how(request: pytest.FixtureRequest) -> str:
    return request.param


def refused(how: str, name: str = "bad"):
    return pytest.raises(DataError, match=rf"^the ranker {name}\b.*{SAID[how]}")


def test_a_list_of_other_candidates_is_refused_with_the_ranker_and_the_query(how) -> None:
    found: list[str] = []
    with refused(how):
        for one in rank_what_fits(Wrong(how), QUERIES, lambda query, error: None, "bad"):
            found.append(one.query)
    assert found == ["q0", "q1", "q2"]
    with refused(how, "Wrong"):
        list(checked(Wrong(how), QUERIES))


def test_it_is_refused_where_other_queries_do_not_fit_too(how) -> None:
    class Short(Wrong):
        def rank(self, queries: Iterable[Query]) -> Iterator[RankedList]:
            def fitting() -> Iterator[Query]:
                for one in queries:
                    if one.id == "q1":
                        raise PromptError("too long")
                    yield one

            return super().rank(fitting())

    skipped: list[str] = []
    with refused(how):
        list(rank_what_fits(Short(how), QUERIES, lambda one, error: skipped.append(one.id), "bad"))
    assert skipped == ["q1"]


def test_the_only_candidate_has_a_number_too() -> None:
    class Blank:
        def rank(self, queries: Iterable[Query]) -> Iterator[RankedList]:
            return (RankedList.of(one, [math.nan] * len(one.candidates)) for one in queries)

    alone = Query("q", UserHistory("u", ()), (ITEMS[0],))
    with pytest.raises(DataError, match="ranker bad: query q: a score is not a number"):
        list(checked(Blank(), [alone], "bad"))


def test_a_member_of_the_blend_is_named(how) -> None:
    members = {"bad": Wrong(how), "random": RandomRanker(0)}
    blend = BlendRanker(members, {"bad": 1.0, "random": 1.0})
    with refused(how):
        list(rank_what_fits(blend, QUERIES, lambda query, error: None, "blend"))


def context(how: str) -> RankContext:
    def judge(tuned: bool):
        raise AssertionError("no language model is asked for")

    cases = [Case(one, frozenset({"i0"})) for one in QUERIES]
    catalog = Catalog(pl.DataFrame({"id": [item.id for item in ITEMS]}))
    rank = RankSettings(rankers=("blend",), blend=("popular", "random"))
    return RankContext(catalog, LOG, 0, judge, validation=lambda: cases, settings=rank)


def test_a_member_is_named_when_the_weights_are_learned(how, monkeypatch) -> None:
    rankers = {"popular": Wrong(how), "random": RandomRanker(0)}
    load = RANKERS.load
    monkeypatch.setattr(
        RANKERS, "load", lambda name: (lambda _: rankers[name]) if name in rankers else load(name)
    )
    with refused(how, "popular"):
        make_ranker("blend", context(how))


@pytest.mark.parametrize(
    ("scores", "said"),
    [([1.0, math.nan, 0.0, 2.0, 1.0], "a score is not a number"), ([1.0], "1 scores for 5 cand")],
)
def test_a_ranker_that_is_tuned_is_named(scores, said) -> None:
    class Bad(QueryRanker):
        def __init__(self, setting: int) -> None:
            self.setting = setting

        def scores(self, query: Query) -> list[float]:
            return scores

    told = dataclasses.replace(context("omits"), quality=lambda cases, lists: {"auc": 0.5})
    with pytest.raises(DataError, match=f"^the ranker bad: query q0: {said}"):
        tuned("bad", told, [{"setting": 0}, {"setting": 1}], Bad)


def test_an_infinite_score_cannot_be_added() -> None:
    class Sure:
        def rank(self, queries: Iterable[Query]) -> Iterator[RankedList]:
            for one in queries:
                yield RankedList.of(one, [-math.inf, *range(len(one.candidates) - 1)])

    assert len(list(checked(Sure(), QUERIES))) == 6
    with pytest.raises(DataError, match="query q0: a score is infinite"):
        list(BlendRanker({"sure": Sure()}, {"sure": 1.0}).rank(QUERIES))
