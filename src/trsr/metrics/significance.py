"""Paired statistics over queries: difference, interval, tests, effect size, several seeds.

Every comparison is paired: both sides answered the same queries. The interval is a bootstrap, the
p-value a randomization test, both over users (see `resampling`); a t test stands beside it. The
Wilcoxon and the sign test are left out on purpose: they test other things than the mean, and
disagree with it on the skewed values of rank metrics (Smucker et al., CIKM 2007; Urbano, Lima and
Hanjalic, "Statistical significance testing in information retrieval", SIGIR 2019).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from trsr.settings import derive_seed

if TYPE_CHECKING:
    import polars as pl


Floats = npt.NDArray[np.float64]

RESAMPLES = 10_000
"""Bootstrap samples, where the users are not too many."""

FLIPS = 100_000
"""Patterns of signs that are drawn: the lowest p-value, 1e-5, has to bear Holm's correction."""

FEWEST = 1_000
"""The least of both, where there are very many users: means are nearly normal then."""

_DRAWS = 100_000_000  # most draws in all
_CELLS = 4_000_000  # draws held at a time
_EXACT = 14  # with at most this many users that differ at all, every pattern of signs is tried
_ROUNDING = 1e-10  # share of the sum by which two equal sums may differ


@dataclass(frozen=True, slots=True)
class Sample:
    """Values of queries, summed up by user.

    Attributes:
        sums: [users, columns] sums of each user's values.
        counts: [users] how many queries each user has.
    """

    sums: Floats
    counts: Floats

    @classmethod
    def of(cls, values: Floats, user: npt.NDArray[np.int64]) -> Sample:
        """Sums up.

        Args:
            values: [queries, columns].
            user: [queries] the user of each query as a code from 0, without gaps.
        """
        users = int(user.max(initial=-1)) + 1
        sums = np.zeros((users, values.shape[1]))
        np.add.at(sums, user, values)
        return cls(sums, np.bincount(user, minlength=users).astype(np.float64))

    @property
    def users(self) -> int:
        """How many there are."""
        return len(self.counts)

    @property
    def means(self) -> Floats:
        """[columns] means over queries."""
        means: Floats = self.sums.sum(axis=0) / self.counts.sum()
        return means

    @property
    def standard_errors(self) -> Floats:
        """[columns] standard errors of the means that allow for likeness within a user.

        The cluster-robust variance G/(G−1) Σ (sᵍ − m nᵍ)² / N² over the G users, with the sum sᵍ
        and number nᵍ of their values (Liang and Zeger, "Longitudinal data analysis using
        generalized linear models", Biometrika 1986, for a mean). With one query a user it is the
        usual variance of a mean.
        """
        rest = self.sums - self.means * self.counts[:, None]
        spread = (rest**2).sum(axis=0) * self.users / (self.users - 1)
        errors: Floats = np.sqrt(spread) / self.counts.sum()
        return errors


def bootstrap(sample: Sample, *, seed: int = 0) -> Floats:
    """BCa intervals (95 %) of the means over queries.

    Bias-corrected and accelerated percentiles (Efron, "Better bootstrap confidence intervals", JASA
    1987, equations 2.3 and 6.6), users drawn with replacement, the acceleration from leaving out a
    user at a time. A column whose resampled means are all equal has an interval of one point.
    `scipy.stats.bootstrap` finds the same up to its draws, but needs users² numbers for each
    column. The sample is of at least two users.

    Returns:
        [2, columns] lower and upper ends.
    """
    from scipy import special  # takes a fifth of a second, and few commands compute

    drawn = np.concatenate(list(_drawn_means(sample, seed)))
    means, tails = sample.means, np.array([(1 - 0.95) / 2, (1 + 0.95) / 2])
    near = _ROUNDING * np.abs(drawn).max(axis=0)
    below = (drawn < means - near).sum(axis=0) + (np.abs(drawn - means) <= near).sum(axis=0) / 2
    left_out = (sample.sums.sum(axis=0) - sample.sums) / (sample.counts.sum() - sample.counts)[
        :, None
    ]
    pull = left_out.mean(axis=0) - left_out
    cubes, squares = (pull**3).sum(axis=0), (pull**2).sum(axis=0)
    share = below / len(drawn)
    plain = (share <= 0) | (share >= 1) | (squares <= 0)
    bias = special.ndtri(np.where(plain, 0.5, share))
    acceleration = np.where(plain, 0.0, cubes / (6 * np.where(plain, 1.0, squares) ** 1.5))
    z = bias + special.ndtri(tails)[:, None]
    places = special.ndtr(bias + z / np.maximum(1 - acceleration * z, 1e-3))
    places[:, plain] = tails[:, None]
    each = [np.quantile(one, ends) for one, ends in zip(drawn.T, places.T, strict=True)]
    return np.array(each).T


def flip_signs(sample: Sample, *, seed: int = 0) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """The paired randomization test: how often chance makes a mean difference as large as seen.

    If two rankers are alike, each user's differences could as well have had the other sign (Fisher
    1935; Smucker, Allan and Carterette, "A comparison of statistical significance tests for
    information retrieval evaluation", CIKM 2007). Two-sided. With at most 14 users whose sums are
    not 0 all patterns are tried; else the p-value is (1 + hits) / (1 + draws), which is never 0
    (Phipson and Smyth, "Permutation p-values should never be zero", 2010, equation 2). Where the
    users are too many for all draws and none of them was a hit, it is the normal tail, as sums of
    so many flipped signs are normal, and no lower than all draws could give. The sample holds
    differences of at least one user.

    Returns:
        [columns] p-values, and whether each is exact.
    """
    sums = sample.sums
    seen = np.abs(sums.sum(axis=0))
    near = _ROUNDING * np.abs(sums).sum(axis=0)
    nonzero = np.count_nonzero(sums, axis=0)
    exact: npt.NDArray[np.bool_] = nonzero <= _EXACT
    found = np.ones(sums.shape[1])
    for column in np.flatnonzero(exact):
        moving = sums[sums[:, column] != 0, column]
        patterns = np.arange(1 << len(moving))[:, None] >> np.arange(len(moving)) & 1
        totals = np.abs((1.0 - 2.0 * patterns) @ moving)
        found[column] = np.mean(totals >= seen[column] - near[column])
    rest = np.flatnonzero(~exact)
    if len(rest):
        hits = np.zeros(len(rest))
        draws = 0
        for signs in _signs(sample.users, seed):
            totals = np.abs(signs @ sums[:, rest])
            hits += (totals >= seen[rest] - near[rest]).sum(axis=0)
            draws += len(signs)
        found[rest] = (1 + hits) / (1 + draws)
        if draws < FLIPS:
            from scipy import special

            spread = np.sqrt((sums[:, rest] ** 2).sum(axis=0))
            tail = 2 * special.ndtr(-seen[rest] / spread)
            bounded = np.clip(tail, 1 / (1 + FLIPS), found[rest])
            found[rest] = np.where(hits == 0, bounded, found[rest])
    return found, exact


def _chunks(users: int, wanted: int) -> Iterator[int]:
    """How many to draw at a time, for all that are drawn."""
    left = max(FEWEST, min(wanted, _DRAWS // users))
    most = max(1, _CELLS // users)
    while left > 0:
        yield min(left, most)
        left -= most


def _drawn_means(sample: Sample, seed: int) -> Iterator[Floats]:
    """[resamples, columns] in chunks."""
    users = sample.users
    generator = np.random.default_rng(derive_seed(seed, "bootstrap", str(users)))
    for rows in _chunks(users, RESAMPLES):
        drawn = generator.integers(0, users, (rows, users))
        drawn += np.arange(rows)[:, None] * users
        times = np.bincount(drawn.ravel(), minlength=rows * users).reshape(rows, users)
        weights = times.astype(np.float64)
        yield (weights @ sample.sums) / (weights @ sample.counts)[:, None]


def _signs(users: int, seed: int) -> Iterator[Floats]:
    """[flips, users] of −1 and 1 in chunks."""
    generator = np.random.default_rng(derive_seed(seed, "sign flips", str(users)))
    width = math.ceil(users / 8)
    for rows in _chunks(users, FLIPS):
        octets = np.frombuffer(generator.bytes(rows * width), np.uint8).reshape(rows, width)
        bits = np.unpackbits(octets, axis=1, count=users)
        yield 1.0 - 2.0 * bits.astype(np.float64)


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
    differences: Floats, users: Sequence[str], *, seed: int = 0
) -> list[Difference]:
    """Compares many pairs at once; the order of the queries means nothing.

    Args:
        differences: [queries, columns] first side minus second.
        users: [queries] the user of each.
        seed: Of the resampling.

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


def compare_seeds(first: Floats, second: Floats, users: Sequence[str]) -> Difference:
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
    """
    (plain,) = compare_columns((first.mean(axis=0) - second.mean(axis=0))[:, None], users)
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
    from scipy import special

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


def rank_correlation(own: Sequence[float] | Floats, others: Sequence[float] | Floats) -> float:
    """Spearman's of two lists of scores; 1 where both rank the same, constant ones too."""
    from scipy.stats import rankdata

    one, other = rankdata(own), rankdata(others)
    if np.array_equal(one, other):
        return 1.0
    if not (one.std() and other.std()):
        return 0.0
    return float(np.corrcoef(one, other)[0, 1])


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
    from scipy import special

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
