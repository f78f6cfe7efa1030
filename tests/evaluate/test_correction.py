"""Sampled metrics corrected: against whole catalogues whose true metrics are known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from trsr.evaluate import evaluate, parse_metric
from trsr.evaluate.correction import correct, corrected_values, metric_at, sampled_rank
from trsr.evaluate.ranks import Ranks
from trsr.types import Case, Item, Query, RankedList, UserHistory

METRICS = [parse_metric(text) for text in ("recall@10", "ndcg@10", "mrr@10", "auc")]


def test_the_sampled_rank_is_hypergeometric() -> None:
    chance = sampled_rank(np.arange(1, 31), 30, 7)
    for rank in (1, 2, 15, 29, 30):
        expected = stats.hypergeom.pmf(np.arange(8), 29, rank - 1, 7)
        assert chance[rank - 1] == pytest.approx(expected, abs=1e-12)


def test_metrics_at_a_rank_by_hand() -> None:
    found = metric_at(METRICS, np.array([1, 3, 11]), 21)
    assert found[0] == pytest.approx([1, 1, 1, 1])
    assert found[1] == pytest.approx([1, 1 / 2, 1 / 3, 0.9])
    assert found[2] == pytest.approx([0, 0, 0, 0.5])


def test_sampling_everything_corrects_nothing() -> None:
    values = corrected_values(METRICS, 40, 39, gamma=0.0)
    assert values == pytest.approx(metric_at(METRICS, np.arange(1, 41), 40), abs=1e-9)


def test_auc_needs_no_correction() -> None:
    # The sampled AUC is unbiased at every rank, so least bias must find it again.
    values = corrected_values(METRICS[3:], 500, 20, gamma=0.0)[:, 0]
    assert values == pytest.approx(1 - np.arange(21) / 20, abs=1e-4)


def test_the_bias_over_all_ranks_is_the_least() -> None:
    population, samples = 300, 15
    chance = sampled_rank(np.arange(1, population + 1), population, samples)
    truth = metric_at(METRICS[:1], np.arange(1, population + 1), population)

    def bias(values: np.ndarray) -> float:
        return float(((chance @ values - truth) ** 2).sum())

    best = corrected_values(METRICS[:1], population, samples, gamma=0.0)
    draw = np.random.default_rng(0)
    for _ in range(50):
        assert bias(best) <= bias(best + 0.05 * draw.normal(size=best.shape)) + 1e-12


def test_gamma_trades_bias_for_variance() -> None:
    chance = sampled_rank(np.arange(1, 301), 300, 15)

    def variance(values: np.ndarray) -> float:
        return float((chance @ values**2 - (chance @ values) ** 2).sum())

    spread = [
        variance(corrected_values(METRICS[:1], 300, 15, gamma=g)) for g in (0.0, 0.01, 0.1, 0.9)
    ]
    assert spread == sorted(spread, reverse=True)


@pytest.mark.parametrize("skill", [0.0, 1.0, 2.0])
def test_estimates_come_near_a_whole_catalogue_that_is_known(skill: float) -> None:
    population, samples, queries = 400, 80, 4000
    draw = np.random.default_rng(7)
    others = draw.normal(size=(queries, population - 1))
    own = draw.normal(size=(queries, 1)) + skill
    ranks = 1 + (others > own).sum(axis=1)
    truth = metric_at(METRICS, ranks, population).mean(axis=0)
    above = draw.hypergeometric(ranks - 1, population - ranks, samples)
    ones = np.ones(queries, np.int64)
    places = Ranks(np.arange(queries), above, ones, ones, ones, ones * (samples + 1))
    raw = np.array([metric.values(places).mean() for metric in METRICS])
    values = corrected_values(METRICS, population, samples, gamma=0.01)
    estimate = values[above].mean(axis=0)
    for m in range(3):  # recall, ndcg, mrr
        assert abs(estimate[m] - truth[m]) < 0.25 * abs(raw[m] - truth[m])
    assert estimate[3] == pytest.approx(truth[3], abs=0.02)


@pytest.mark.parametrize(("population", "samples"), [(5, 5), (5, 0)])
def test_numbers_that_do_not_go_together_are_refused(population: int, samples: int) -> None:
    with pytest.raises(ValueError, match="cannot be drawn"):
        corrected_values(METRICS, population, samples)


def cases(sizes: list[int], right: int = 1) -> list[Case]:
    return [
        Case(
            Query(f"q{n}", UserHistory(f"u{n}", ()), tuple(Item(f"i{k}") for k in range(size))),
            frozenset(f"i{k}" for k in range(right)),
        )
        for n, size in enumerate(sizes)
    ]


def test_a_reports_estimates_stand_beside_its_metrics() -> None:
    some = cases([11] * 6)
    lists = {
        "flat": [RankedList.of(one.query, [0.0] * 11) for one in some],
        "llm": [RankedList.of(one.query, [-float(k) for k in range(11)]) for one in some[:5]],
    }
    report = evaluate(some, lists, ["recall@10", "auc"])
    found, wider = correct(report, some, lists, 101, 0.1)
    values = corrected_values([parse_metric("recall@10"), parse_metric("auc")], 101, 10, 0.1)
    assert found.means["flat"]["recall@10"].mean == pytest.approx(values[:, 0].mean())
    assert found.means["llm"]["auc"].mean == pytest.approx(values[0, 1] * 5 / 6)
    ours = wider.per_query.filter(ranker="llm")
    assert ours["recall@10~full"].to_list() == pytest.approx([*[values[0, 0]] * 5, 0.0])
    assert wider.to_json() == report.to_json()
    assert found.to_json()["samples"] == 10


@pytest.mark.parametrize(
    ("some", "why"),
    [
        ([], "no queries"),
        (cases([5, 6]), "unlike numbers"),
        (cases([5, 5], right=2), "several right answers"),
        (cases([1, 1]), "no sample"),
    ],
)
def test_where_no_correction_is_defined_the_note_says_why(some: list[Case], why: str) -> None:
    report = evaluate(some, {"llm": []}, ["auc"])
    found, same = correct(report, some, {"llm": []}, 50)
    assert why in found.note
    assert not found.means
    assert same is report
