"""Metrics as values: `recall@10` parses to a `Metric` that prints as `recall@10`.

Relevance is binary. A tie counts as its expected value: every metric is its mean over all orders
of the tied candidates, each order equally likely, in closed form (McSherry and Najork, "Computing
information retrieval performance measures efficiently in the presence of tied scores", ECIR 2008,
give the idea for rank metrics; the formulas stand at each function). Without ties each is the
metric as usually defined. In the formulas, for one relevant candidate:

- a: candidates scored strictly better,
- n: candidates of its score, itself included; it stands at each of ranks a+1 … a+n equally often,
- r: those of the n that are relevant,

and for its query R relevant ones among N candidates, and the cut-off k.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from trsr.errors import ConfigError
from trsr.evaluate.ranks import Ranks
from trsr.plugins import near

Values = npt.NDArray[np.float64]

USUAL = "ndcg@10"
"""The metric that is looked at where none is asked for."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric and its cut-off; `str(metric)` is the text that `parse_metric` reads.

    Attributes:
        name: A name in `METRICS`.
        k: Only the first k ranks count; None for a metric without a cut-off.
    """

    name: str
    k: int | None = None

    def __str__(self) -> str:
        return self.name if self.k is None else f"{self.name}@{self.k}"

    @property
    def whole(self) -> bool:
        """Whether it asks for every candidate's place; of lists cut short it is a lower bound."""
        return self.k is None

    @property
    def meaning(self) -> str:
        """The metric in a few words for people."""
        return METRICS[self.name].meaning.replace("first k", f"first {self.k}")

    def values(self, ranks: Ranks) -> Values:
        """The metric of each query, between 0 (worst) and 1; shape (queries,)."""
        return METRICS[self.name].compute(ranks, self.k or 0)


@dataclass(frozen=True, slots=True)
class Family:
    """Metrics of one name.

    Attributes:
        compute: (ranks, k) → values of shape (queries,).
        cut_off: Whether the name takes one.
        meaning: One line for people.
    """

    compute: Callable[[Ranks, int], Values]
    cut_off: bool
    meaning: str


def parse_metric(text: str) -> Metric:
    """Reads a metric; `str` of it gives the same text again.

    Raises:
        ConfigError: If there is no such metric, or its cut-off is missing, odd or too much; near
            names are suggested.
    """
    name, at, cut = text.partition("@")
    if name not in METRICS:
        names = [f"{one}@{cut or 10}" if f.cut_off else one for one, f in METRICS.items()]
        raise ConfigError(f"there is no metric {text!r}{near(text.lower(), names)}")
    if not METRICS[name].cut_off:
        if at:
            raise ConfigError(f"{text!r}: {name} takes no cut-off; write {name}")
        return Metric(name)
    if not re.fullmatch(r"[1-9][0-9]{0,8}", cut):
        raise ConfigError(f"{text!r}: {name} takes a cut-off from 1 up; write {name}@10")
    return Metric(name, int(cut))


def recall(ranks: Ranks, k: int) -> Values:
    """Share of the relevant candidates that stand in the first k ranks.

    Manning, Raghavan and Schütze, *Introduction to Information Retrieval* (2008), 8.3, cut at k;
    divided by R also where R > k, as `trec_eval`'s `recall_k` does. Expected:
    Σ min(max(k − a, 0), n) / n over the relevant, divided by R.
    """
    return ranks.sum(_share_within(ranks, k)) / ranks.relevant


def precision(ranks: Ranks, k: int) -> Values:
    """Share of the first k ranks that hold a relevant candidate.

    Manning et al. (2008), 8.4; divided by k also where N < k, as `trec_eval`'s `P_k` does.
    Expected as for recall, divided by k.
    """
    return ranks.sum(_share_within(ranks, k)) / k


def hit(ranks: Ranks, k: int) -> Values:
    """1 where a relevant candidate stands in the first k ranks, else 0 (`trec_eval`'s `success_k`).

    Expected: 1 − C(n−r, m)/C(n, m) with m = k − a ranks left for the tie group: a draw of m
    without replacement that holds none of the r. Written as 1 − Π (n−m−i)/(n−i) for i < r.
    """
    left = np.clip(k - ranks.above, 0, ranks.tied)
    none = np.ones(len(left))
    for i in range(int(ranks.partners.max(initial=0))):
        factor = np.maximum(ranks.tied - left - i, 0) / np.maximum(ranks.tied - i, 1)
        none *= np.where(i < ranks.partners, factor, 1.0)
    # The best group's chance covers the others': they can only hold ranks after it.
    return ranks.best(1.0 - none)


def mrr(ranks: Ranks, k: int) -> Values:
    """1 / rank of the first relevant candidate, 0 where that rank is beyond k; its mean is MRR@k.

    Voorhees, "The TREC-8 question answering track report" (1999), cut at k. Expected:
    Σ p(j)/(a+j) over j ≤ min(n−r+1, k−a), p(j) = C(n−j, r−1)/C(n, r) being the chance that the
    first of r relevant among n tied is the j-th; p(1) = r/n, p(j+1) = p(j) (n−j−r+1)/(n−j).
    """
    last = np.minimum(ranks.tied - ranks.partners + 1, k - ranks.above)
    chance = ranks.partners / ranks.tied
    total = np.zeros(len(chance))
    for j in range(1, int(last.max(initial=0)) + 1):
        total += np.where(j <= last, chance / (ranks.above + j), 0.0)
        others = ranks.tied - j
        chance = chance * np.maximum(others - ranks.partners + 1, 0) / np.maximum(others, 1)
    # Every relevant candidate of the best group has the query's value, those below it less.
    return ranks.best(total)


def ndcg(ranks: Ranks, k: int) -> Values:
    """Discounted gain of the first k ranks over that of the best order.

    Järvelin and Kekäläinen, "Cumulated gain-based evaluation of IR techniques" (TOIS 2002), with
    the discount 1/log2(rank + 1) and gain 1; the best order is cut at k too (`trec_eval`'s
    `ndcg_cut_k`). Expected: a relevant candidate's mean discount over its ranks a+1 … a+n.
    """
    k = min(k, int(ranks.candidates.max(initial=0)))
    discounts = np.zeros(k + 1)
    np.cumsum(1.0 / np.log2(np.arange(2, k + 2)), out=discounts[1:])
    upto = discounts[np.minimum(ranks.above + ranks.tied, k)]
    gains = (upto - discounts[np.minimum(ranks.above, k)]) / ranks.tied
    return ranks.sum(gains) / discounts[np.minimum(ranks.relevant, k)]


def auc(ranks: Ranks, _: int) -> Values:
    """Chance that a relevant candidate stands before one that is not; a tie counts half.

    The Mann–Whitney statistic (Hanley and McNeil, *Radiology* 143, 1982):
    1 − (Σ (a + (n+1)/2) − R(R+1)/2) / (R (N−R)). A query whose candidates are all relevant tells
    nothing apart and has 0.5. A relevant candidate that was not found stands last.
    """
    above = np.minimum(ranks.above, ranks.candidates[ranks.row] - ranks.tied)
    lost = ranks.sum(above + (ranks.tied + 1) / 2) - ranks.relevant * (ranks.relevant + 1) / 2
    pairs = ranks.relevant * (ranks.candidates - ranks.relevant)
    return np.where(pairs > 0, 1 - lost / np.maximum(pairs, 1), 0.5)


def _share_within(ranks: Ranks, k: int) -> Values:
    """For each relevant candidate, the chance to stand in the first k ranks."""
    return np.clip(k - ranks.above, 0, ranks.tied) / ranks.tied


METRICS: Mapping[str, Family] = MappingProxyType(
    {
        "recall": Family(recall, True, "share of the relevant items in the first k"),
        "mrr": Family(mrr, True, "1 / rank of the first relevant item, if in the first k"),
        "ndcg": Family(ndcg, True, "discounted gain of the first k, over the best order's"),
        "hit": Family(hit, True, "whether a relevant item is in the first k"),
        "precision": Family(precision, True, "share of the first k that is relevant"),
        "auc": Family(auc, False, "chance that a relevant item stands before another one"),
    }
)
"""Every metric by name."""
