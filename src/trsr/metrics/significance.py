"""Paired statistics over queries: difference, interval, tests, effect size, several seeds.

Every comparison is paired: both sides answered the same queries. The interval is a bootstrap, the
p-value a randomization test, both over users (see `resampling`); a t test stands beside it. The
Wilcoxon and the sign test are left out on purpose: they test other things than the mean, and
disagree with it on the skewed values of rank metrics (Smucker et al., CIKM 2007; Urbano, Lima and
Hanjalic, "Statistical significance testing in information retrieval", SIGIR 2019).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy import special

from trsr.metrics.resampling import Floats, Sample, bootstrap, flip_signs

if TYPE_CHECKING:
    import polars as pl


LEVEL = 0.05
"""Below this a p-value, corrected for the table, is called significant."""


@dataclass(frozen=True, slots=True)
class Difference:
    """How much better one side is than another on the same queries, and how sure that is.

    What cannot be said is None: all but `mean` for one user's queries, all for none or where a side
    is a lower bound.

    Attributes:
        queries: On how many.
        users: Whose they are; users, not queries, are what was drawn from a population.
        mean: Mean difference; positive where the first side is better.
        low: Where its 95 % interval begins.
        high: Where it ends.
        p: Two-sided p-value: of the randomization test for one seed a side; of a t test that
            counts the seeds' spread for several.
        p_t: Two-sided p-value of the paired t test (cluster-robust where users have several
            queries), the seeds taken as given.
        d_z: Cohen's effect size of paired values, mean / standard deviation of the differences
            (Cohen, *Statistical Power Analysis*, 1988, 2.3.5); None where they do not vary.
        test: `exact`, `random` (flips were drawn) or `seeds`; says where `p` is from; empty where
            there is none.
    """

    queries: int
    users: int
    mean: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    p_t: float | None = None
    d_z: float | None = None
    test: str = ""


def compare_columns(
    differences: Floats, users: Sequence[str], *, seed: int = 0, tests: bool = True
) -> list[Difference]:
    """Compares many pairs at once; the order of the queries means nothing.

    Args:
        differences: [queries, columns] first side minus second.
        users: [queries] the user of each.
        seed: Of the resampling.
        tests: Whether p-values are wanted; else there are intervals alone.

    Returns:
        One for each column.
    """
    queries, columns = differences.shape
    if not queries:
        return [Difference(0, 0)] * columns
    names = np.asarray(users, dtype=np.str_)
    # Users in the order of their ids, and a user's queries by value: sums and draws are then the
    # same for any order of the queries.
    known, code = np.unique(names, return_inverse=True)
    ordered = np.empty_like(differences)
    for column in range(columns):
        ordered[:, column] = differences[np.lexsort((differences[:, column], code)), column]
    sample = Sample.of(ordered, np.sort(code).astype(np.int64))
    means = sample.means
    if len(known) < 2:
        return [Difference(queries, 1, float(mean)) for mean in means]
    low, high = bootstrap(sample, seed=seed)
    if not tests:
        ends = zip(means, low, high, strict=True)
        return [Difference(queries, len(known), float(m), float(a), float(b)) for m, a, b in ends]
    p, exact = flip_signs(sample, seed=seed)
    errors = sample.standard_errors
    spread = ordered.std(axis=0, ddof=1)
    return [
        Difference(
            queries,
            len(known),
            mean=float(means[n]),
            low=float(low[n]),
            high=float(high[n]),
            p=float(p[n]),
            p_t=_t_test(float(means[n]), float(errors[n]), len(known) - 1),
            d_z=float(means[n] / spread[n]) if _varies(spread[n], ordered[:, n]) else None,
            test="exact" if exact[n] else "random",
        )
        for n in range(columns)
    ]


def compare_seeds(
    first: Floats, second: Floats, users: Sequence[str], *, seed: int = 0
) -> Difference:
    """Compares two ways of training, each with the values of one or several seeds.

    The values are averaged over seeds query by query and compared as one. With several seeds on a
    side, the interval and `p` are for a new training run on new users, not for these very models:
    the squared standard error is that over users plus, for each side, the variance of its seeds'
    means / number of seeds, and Student's t has the degrees of freedom of Welch and Satterthwaite
    (Satterthwaite, "An approximate distribution of estimates of variance components", Biometrics
    1946), rounded down. Two or three seeds thus give wide intervals, as they should. The sides'
    seeds are taken as independent; a side with one seed adds nothing, as its spread is not known.

    Args:
        first: [seeds, queries].
        second: [seeds, queries]; the queries as in `first`, the number of seeds may differ.
        users: [queries] the user of each.
        seed: Of the resampling.
    """
    plain = compare_columns((first.mean(axis=0) - second.mean(axis=0))[:, None], users, seed=seed)[
        0
    ]
    parts = [
        (float(side.mean(axis=1).var(ddof=1)) / len(side), len(side) - 1)
        for side in (first, second)
        if len(side) > 1
    ]
    if not parts or plain.mean is None or plain.low is None:
        return plain
    over_users = standard_error((first.mean(axis=0) - second.mean(axis=0))[:, None], users)
    parts.append((over_users**2, plain.users - 1))
    variance = math.fsum(part for part, _ in parts)
    if variance <= 0:
        return plain
    freedom = variance**2 / math.fsum(part**2 / df for part, df in parts)
    df = max(1, math.floor(freedom + 1e-9))
    error = math.sqrt(variance)
    reach = float(special.stdtrit(df, 0.975)) * error
    return Difference(
        plain.queries,
        plain.users,
        mean=plain.mean,
        low=plain.mean - reach,
        high=plain.mean + reach,
        p=_two_sided(plain.mean / error, df),
        p_t=plain.p_t,
        d_z=plain.d_z,
        test="seeds",
    )


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """p-values corrected for their number; below a level α, all errors together stay below α.

    The step-down method of Holm ("A simple sequentially rejective multiple test procedure",
    Scandinavian Journal of Statistics 1979); it assumes nothing about how the tests depend on
    each other. None, where nothing could be tested, stays None and is not counted.
    """
    known = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (p, place) in enumerate(known):
        highest = max(highest, min(1.0, (len(known) - rank) * p))
        corrected[place] = highest
    return corrected


def standard_error(differences: Floats, users: Sequence[str]) -> float:
    """Of the mean of one column of differences, [queries, 1], over users (two at least)."""
    _, code = np.unique(np.asarray(users, dtype=np.str_), return_inverse=True)
    return float(Sample.of(differences, code.astype(np.int64)).standard_errors[0])


def _t_test(mean: float, error: float, df: int) -> float:
    if error > 1e-12 * abs(mean):
        return _two_sided(mean / error, df)
    return 1.0 if mean == 0 else 0.0


def _two_sided(t: float, df: int) -> float:
    """The chance of a value at least as far from 0, under Student's t."""
    return float(2 * special.stdtr(df, -abs(t)))


def _varies(spread: np.float64, values: npt.NDArray[np.float64]) -> bool:
    """Whether values differ by more than rounding."""
    return bool(spread > 1e-12 * np.abs(values).max())


BETTER, WORSE = "↑", "↓"
"""Ends what is significantly better or worse than what it is compared with."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One ranker against the one that a report is about, in one metric.

    Attributes:
        ranker: Its name.
        baseline: The name of the other.
        metric: What is compared.
        difference: Ranker minus baseline.
        p_holm: Its p-value, corrected for all comparisons of the table.
    """

    ranker: str
    baseline: str
    metric: str
    difference: Difference
    p_holm: float | None

    @property
    def mark(self) -> str:
        """`BETTER` or `WORSE` where the difference is significant, else empty."""
        return significance(self.difference.mean, self.p_holm)

    def to_json(self) -> dict[str, Any]:
        """Plain values; what cannot be said is null."""
        names = {"ranker": self.ranker, "baseline": self.baseline, "metric": self.metric}
        return names | difference_json(self.difference) | {"p_holm": self.p_holm}


def difference_json(difference: Difference) -> dict[str, Any]:
    """Plain values; the mean is called `difference`."""
    values = asdict(difference)
    return {"difference": values.pop("mean")} | values


def significance(mean: float | None, p_holm: float | None) -> str:
    """`BETTER` or `WORSE` where the corrected p-value is below `LEVEL`, else empty."""
    if mean is None or p_holm is None or p_holm >= LEVEL or mean == 0:
        return ""
    return BETTER if mean > 0 else WORSE


def compare_rankers(
    per_query: pl.DataFrame,
    rankers: Sequence[str],
    main: str,
    metrics: Sequence[str],
    bounds: Mapping[str, Collection[str]] | None = None,
) -> tuple[Comparison, ...]:
    """Every other ranker against the main one in every metric, Holm over all of them.

    What is a lower bound on one side at least is left out: such a difference says nothing.

    Args:
        per_query: As in `Report`.
        rankers: The rankers' names.
        main: The one that the others are compared with.
        metrics: Columns of `per_query`.
        bounds: ranker → which of the metrics are lower bounds for it.
    """
    bounds = bounds or {}
    others = [name for name in rankers if name != main]
    pairs = [
        (name, metric)
        for name in others
        for metric in metrics
        if metric not in bounds.get(name, ()) and metric not in bounds.get(main, ())
    ]
    if not pairs:
        return ()
    tables = per_query.partition_by("ranker", as_dict=True)
    if not tables:
        users: list[str] = []
        differences = np.zeros((0, len(pairs)))
    else:
        differences = np.hstack(
            [
                tables[name,].select(wanted).to_numpy() - tables[main,].select(wanted).to_numpy()
                for name in others
                if (wanted := [metric for ranker, metric in pairs if ranker == name])
            ]
        )
        users = tables[main,]["user"].to_list()
    found = compare_columns(differences, users)
    corrected = holm([one.p for one in found])
    return tuple(
        Comparison(name, main, metric, difference, p)
        for (name, metric), difference, p in zip(pairs, found, corrected, strict=True)
    )
