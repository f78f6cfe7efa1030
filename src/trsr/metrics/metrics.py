"""Metrics as values: `recall@10` parses to a `Metric` that prints as `recall@10`.

Relevance is binary. A tie counts as its expected value: every metric is its mean over all orders
of the tied candidates, each order equally likely, in closed form (McSherry and Najork, "Computing
information retrieval performance measures efficiently in the presence of tied scores", ECIR 2008,
give the idea for rank metrics; the formulas stand at each function). Without ties each is the
metric as usually defined. In the formulas, for one relevant candidate:

- a: candidates scored strictly better,
- n: candidates of its score, itself included; it stands at each of ranks a+1 … a+n equally often,
- r: those of the n that are relevant,

and for its query R relevant ones among N candidates, and the cut-off k. Metrics of what is
recommended, whether or not it is right, stand in `beyond`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from pydantic import Field

from trsr.errors import ConfigError, DataError
from trsr.metrics import beyond_accuracy
from trsr.metrics.answers import Ranks
from trsr.metrics.beyond_accuracy import ItemFacts, Shown
from trsr.registry import PluginTable, near
from trsr.settings import Settings

if TYPE_CHECKING:
    from trsr.metrics.answers import AnswerKey


Values = npt.NDArray[np.float64]

USUAL = "ndcg@10"
"""The metric that is used where none is named."""

_FORM = re.compile(r"(\w*)(?:\(p=([0-9.]+)\))?(?:(@)(.*))?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric and its cut-off; `str(metric)` is the text that `parse_metric` reads.

    Attributes:
        name: A name in `METRICS`.
        k: Only the first k ranks count; None for a metric without a cut-off.
        p: Its parameter; None for a metric without one.
    """

    name: str
    k: int | None = None
    p: float | None = None

    def __str__(self) -> str:
        chosen = "" if self.p is None else f"(p={self.p:g})"
        return f"{self.name}{chosen}" + ("" if self.k is None else f"@{self.k}")

    @property
    def family(self) -> Family:
        """What all metrics of this name have in common."""
        return METRICS[self.name]

    @property
    def needs_all(self) -> bool:
        """Whether it asks for every candidate's place; of lists cut short it is a lower bound."""
        return self.k is None

    @property
    def meaning(self) -> str:
        """The metric in a few words for people."""
        return self.family.meaning.replace("first k", f"first {self.k}")

    def values(self, ranks: Ranks) -> Values:
        """An accuracy metric of each query, between 0 (worst) and 1; shape (queries,).

        Raises:
            DataError: If another package's metric gives other values.
        """
        compute = self.family.accuracy
        if compute is None:
            raise TypeError(f"{self} is no metric of ranks")
        found = np.asarray(compute(ranks, self), np.float64)
        due = ranks.relevant.shape
        low, high = -1e-9, 1.0 + 1e-9 if self.family.unit else math.inf  # as sums are rounded
        if found.shape != due or not ((low <= found) & (found <= high) & np.isfinite(found)).all():
            least = "0 to 1" if self.family.unit else "0 up"
            raise DataError(
                f"the metric {self} must give a number from {least} for each of {due[0]:,} "
                f"queries, and gave values of the shape {found.shape}, {found.ravel()[:3]} first"
            )
        return found


@dataclass(frozen=True, slots=True)
class Family:
    """Metrics of one name; just one of the three functions is there.

    Other packages add metrics of ranks: a `Family` with `accuracy`, by the entry point
    `trsr.metrics`.

    Attributes:
        meaning: One line for people.
        accuracy: (ranks, metric) → values of shape (queries,), between 0 and 1.
        lists: Of what is shown, right or not: values of shape (queries,).
        together: Of all that is shown: one value.
        cut_off: Whether the name takes one.
        p: What the parameter usually is; None: the name takes none.
        unit: Whether values lie between 0 and 1.
    """

    meaning: str
    accuracy: Callable[[Ranks, Metric], Values] | None = None
    lists: Callable[[Shown, AnswerKey, ItemFacts], Values] | None = None
    together: Callable[[Shown, AnswerKey, ItemFacts], float] | None = None
    cut_off: bool = True
    p: float | None = None
    unit: bool = True

    def example(self, name: str, cut: str = "10") -> str:
        """How a metric of this name is written."""
        chosen = "" if self.p is None else f"(p={self.p:g})"
        return f"{name}{chosen}" + (f"@{cut}" if self.cut_off else "")


def parse_metric(text: str) -> Metric:
    """Reads a metric; `str` of it gives the same text again.

    Raises:
        ConfigError: If there is no such metric, or its cut-off or parameter is missing, odd or too
            much; near names are suggested.
    """
    found = _FORM.fullmatch(text)
    name, p, at, cut = found.groups() if found else (text, None, None, None)
    if name not in METRICS:
        names = [one.example(other, cut or "10") for other, one in METRICS.items()]
        raise ConfigError(f"there is no metric {text!r}{near(text.lower(), names)}")
    family = METRICS[name]
    if not family.cut_off and at:
        raise ConfigError(f"{text!r}: {name} takes no cut-off; write {name}")
    if family.cut_off and not re.fullmatch(r"[1-9][0-9]{0,8}", cut or ""):
        raise ConfigError(
            f"{text!r}: {name} takes a cut-off from 1 up; write {family.example(name)}"
        )
    metric = Metric(
        name, int(cut or 0) if family.cut_off else None, _parameter(text, family, name, p)
    )
    if str(metric) != text:
        raise ConfigError(f"{text!r}: write {metric}")
    return metric


def _parameter(text: str, family: Family, name: str, p: str | None) -> float | None:
    if family.p is None and p is None:
        return None
    if family.p is None:
        raise ConfigError(f"{text!r}: {name} takes no p; write {family.example(name)}")
    if p is None or not re.fullmatch(r"0?\.[0-9]{1,6}", p) or not float(p):
        raise ConfigError(
            f"{text!r}: {name} takes a p between 0 and 1; write {family.example(name)}"
        )
    return float(p)


def recall(ranks: Ranks, metric: Metric) -> Values:
    """Share of the relevant candidates that stand in the first k ranks.

    Manning, Raghavan and Schütze, *Introduction to Information Retrieval* (2008), 8.3, cut at k;
    divided by R also where R > k, as `trec_eval`'s `recall_k` does. Expected:
    Σ min(max(k − a, 0), n) / n over the relevant, divided by R.
    """
    return ranks.sum(_share_within(ranks, _cut(metric))) / ranks.relevant


def precision(ranks: Ranks, metric: Metric) -> Values:
    """Share of the first k ranks that hold a relevant candidate.

    Manning et al. (2008), 8.4; divided by k also where N < k, as `trec_eval`'s `P_k` does.
    Expected as for recall, divided by k.
    """
    return ranks.sum(_share_within(ranks, _cut(metric))) / _cut(metric)


def hit(ranks: Ranks, metric: Metric) -> Values:
    """1 where a relevant candidate stands in the first k ranks, else 0 (`trec_eval`'s `success_k`).

    Expected: 1 − C(n−r, m)/C(n, m) with m = k − a ranks left for the tie group: a draw of m
    without replacement that holds none of the r. Written as 1 − Π (n−m−i)/(n−i) for i < r.
    """
    left = np.clip(_cut(metric) - ranks.above, 0, ranks.tied)
    none = np.ones(len(left))
    for i in range(int(ranks.partners.max(initial=0))):
        factor = np.maximum(ranks.tied - left - i, 0) / np.maximum(ranks.tied - i, 1)
        none *= np.where(i < ranks.partners, factor, 1.0)
    # The best group's chance covers the others': they can only hold ranks after it.
    return ranks.best(1.0 - none)


def mrr(ranks: Ranks, metric: Metric) -> Values:
    """1 / rank of the first relevant candidate, 0 where that rank is beyond k; its mean is MRR@k.

    Voorhees, "The TREC-8 question answering track report" (1999), cut at k. Expected:
    Σ p(j)/(a+j) over j ≤ min(n−r+1, k−a), p(j) = C(n−j, r−1)/C(n, r) being the chance that the
    first of r relevant among n tied is the j-th; p(1) = r/n, p(j+1) = p(j) (n−j−r+1)/(n−j).
    """
    last = np.minimum(ranks.tied - ranks.partners + 1, _cut(metric) - ranks.above)
    chance = ranks.partners / ranks.tied
    total = np.zeros(len(chance))
    for j in range(1, int(last.max(initial=0)) + 1):
        total += np.where(j <= last, chance / (ranks.above + j), 0.0)
        others = ranks.tied - j
        chance = chance * np.maximum(others - ranks.partners + 1, 0) / np.maximum(others, 1)
    # Every relevant candidate of the best group has the query's value, those below it less.
    return ranks.best(total)


def ndcg(ranks: Ranks, metric: Metric) -> Values:
    """Discounted gain of the first k ranks over that of the best order.

    Järvelin and Kekäläinen, "Cumulated gain-based evaluation of IR techniques" (TOIS 2002), with
    the discount 1/log2(rank + 1) and gain 1; the best order is cut at k too (`trec_eval`'s
    `ndcg_cut_k`). Expected: a relevant candidate's mean discount over its ranks a+1 … a+n.
    """
    k = min(_cut(metric), int(ranks.candidates.max(initial=0)))
    discounts = np.zeros(k + 1)
    np.cumsum(1.0 / np.log2(np.arange(2, k + 2)), out=discounts[1:])
    upto = discounts[np.minimum(ranks.above + ranks.tied, k)]
    gains = (upto - discounts[np.minimum(ranks.above, k)]) / ranks.tied
    return ranks.sum(gains) / discounts[np.minimum(ranks.relevant, k)]


def auc(ranks: Ranks, _: Metric) -> Values:
    """Chance that a relevant candidate stands before one that is not; a tie counts half.

    The Mann–Whitney statistic (Hanley and McNeil, *Radiology* 143, 1982):
    1 − (Σ (a + (n+1)/2) − R(R+1)/2) / (R (N−R)). A query whose candidates are all relevant tells
    nothing apart and has 0.5. A relevant candidate that was not found stands last.
    """
    above = np.minimum(ranks.above, ranks.candidates[ranks.row] - ranks.tied)
    lost = ranks.sum(above + (ranks.tied + 1) / 2) - ranks.relevant * (ranks.relevant + 1) / 2
    pairs = ranks.relevant * (ranks.candidates - ranks.relevant)
    return np.where(pairs > 0, 1 - lost / np.maximum(pairs, 1), 0.5)


def average_precision(ranks: Ranks, metric: Metric) -> Values:
    """Mean of the precision at each relevant candidate's rank, 0 beyond k; its mean is MAP@k.

    Manning et al. (2008), 8.4, cut at k and divided by R also where R > k, as `trec_eval`'s
    `map_cut_k`. Expected, with b relevant candidates of a better score (McSherry and Najork 2008,
    equation 6): Σ (b + 1 + (j − 1)(r − 1)/(n − 1)) / (a + j) / n over j ≤ min(n, k − a).
    """
    k = min(_cut(metric), int(ranks.candidates.max(initial=0)))
    harmonic = np.zeros(k + 1)
    np.cumsum(1.0 / np.arange(1, k + 1), out=harmonic[1:])
    above = np.minimum(ranks.above, k)
    places = np.clip(k - ranks.above, 0, ranks.tied)
    inverse = harmonic[above + places] - harmonic[above]
    others = (ranks.partners - 1) / np.maximum(ranks.tied - 1, 1)
    gains = (ranks.before + 1) * inverse + others * (places - (above + 1) * inverse)
    return ranks.sum(gains / ranks.tied) / ranks.relevant


def rbp(ranks: Ranks, metric: Metric) -> Values:
    """Rank-biased precision: (1 − p) Σ p^(rank − 1) over the relevant in the first k ranks.

    Moffat and Zobel, "Rank-biased precision for measurement of retrieval effectiveness" (TOIS
    2008), equation 5; p is the chance to look at the next place. Expected: p^a (1 − p^m) / n for
    each relevant candidate, m = min(max(k − a, 0), n).
    """
    p = metric.p or 0.0
    places = np.clip(_cut(metric) - ranks.above, 0, ranks.tied)
    return ranks.sum(p ** ranks.above.astype(np.float64) * (1 - p**places) / ranks.tied)


def _cut(metric: Metric) -> int:
    return metric.k or 0


def _share_within(ranks: Ranks, k: int) -> Values:
    """For each relevant candidate, the chance to stand in the first k ranks."""
    return np.clip(k - ranks.above, 0, ranks.tied) / ranks.tied


class _Metrics(Mapping[str, Family]):
    """Metrics by name: trsr's own, and those of other packages, loaded as they are asked for."""

    def __init__(self, own: Mapping[str, Family]) -> None:
        self._own = own
        self._added = PluginTable("metric", "trsr.metrics", {})

    def __getitem__(self, name: str) -> Family:
        if name in self._own:
            return self._own[name]
        if name not in self._added:
            raise KeyError(name)
        found = self._added.load(name)
        if not isinstance(found, Family) or found.accuracy is None:
            raise ConfigError(
                f"the metric {name!r} of another package is {found!r}, and must be a "
                "trsr.metrics.Family with a function of ranks (accuracy=…)"
            )
        return found

    def __contains__(self, name: object) -> bool:
        return name in self._own or name in self._added

    def __iter__(self) -> Iterator[str]:
        return iter([*self._own, *(one for one in self._added.names() if one not in self._own)])

    def __len__(self) -> int:
        return len(list(iter(self)))


METRICS: Mapping[str, Family] = _Metrics(
    {
        "recall": Family("share of the relevant items in the first k", recall),
        "mrr": Family("1 / rank of the first relevant item, if in the first k", mrr),
        "ndcg": Family(
            "right items in the first k, earlier ones count more; 1: the best order", ndcg
        ),
        "hit": Family("whether a relevant item is in the first k", hit),
        "precision": Family("share of the first k that is relevant", precision),
        "map": Family("mean precision at the relevant items in the first k", average_precision),
        "rbp": Family("precision of the first k for a reader who stops early", rbp, p=0.8),
        "auc": Family("chance that a relevant item stands before another one", auc, cut_off=False),
        "novelty": Family(
            "self-information of the first k items, in bits",
            lists=beyond_accuracy.novelty,
            unit=False,
        ),
        "popularity": Family(
            "users that the first k items have", lists=beyond_accuracy.popularity, unit=False
        ),
        "diversity": Family(
            "distance of the first k items' texts", lists=beyond_accuracy.diversity
        ),
        "coverage": Family(
            "share of the catalog that is in the first k of a list",
            together=beyond_accuracy.coverage,
        ),
        "gini": Family(
            "how unevenly the first k fall on the catalog", together=beyond_accuracy.gini
        ),
        "popularity_lift": Family(
            "how much more popular the first k are than the histories",
            together=beyond_accuracy.popularity_lift,
            unit=False,
        ),
    }
)
"""Every metric by name, also those of other packages."""


class EvaluateSettings(Settings):
    """Which metrics are computed on the ranked queries, and what is written of them."""

    metrics: tuple[str, ...] = Field(
        (
            "recall@3",
            "recall@5",
            "recall@10",
            "mrr@3",
            "mrr@5",
            "mrr@10",
            "ndcg@10",
            "auc",
        ),
        min_length=1,
        description="see `trsr ls metrics`; any cut-off may follow the @",
    )
    trec: bool = Field(False, description="write run.RANKER.trec and qrels.trec for other tools")
