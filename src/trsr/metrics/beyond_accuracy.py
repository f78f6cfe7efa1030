"""What is recommended, whether or not it is right: how novel, popular, diverse and spread it is.

All look at the first k places of each list. A tie counts as its expected value here too: of n
items that share the places a+1 … a+n, each stands among the first k with the chance

    w = min(max(k − a, 0), n) / n,

and two of them together with m (m − 1) / (n (n − 1)), m = k − a. An item that stands higher is
there for certain. `novelty`, `popularity` and `diversity` have a value for each query; `coverage`,
`gini` and `popularity_lift` have one for all lists together, and so no standard error and no test.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from trsr.metrics.answers import Counts, Floats

if TYPE_CHECKING:
    import polars as pl
    from scipy import sparse

    from trsr.metrics.answers import AnswerKey, Batch


Mask = npt.NDArray[np.bool_]
Places = tuple[Counts, Counts, Counts, Counts]
"""Of items that may stand in the first places: row, code, places left for its tie, tied items."""


class ItemFacts:
    """What these metrics must know of the items.

    Args:
        catalog: `id`, and text columns.
        interactions: `user` and `item` of what rankers are fitted on.

    Attributes:
        ids: All item ids.
        users: How many users there are.
        popularity: How many users each item has; shape (items,).
    """

    def __init__(self, catalog: pl.DataFrame, interactions: pl.DataFrame) -> None:
        import polars as pl

        self.ids: Sequence[str] = catalog["id"].to_list()
        self._texts = catalog.select(
            pl.concat_str(pl.exclude("id").cast(pl.String), separator=" ", ignore_nulls=True)
            if catalog.width > 1
            else pl.lit("")
        ).to_series()
        pairs = interactions.select("user", "item").unique()
        self.users = pairs["user"].n_unique()
        counts = pairs.group_by("item").len()
        joined = catalog.select("id").join(
            counts, left_on="id", right_on="item", how="left", maintain_order="left"
        )
        self.popularity = joined["len"].fill_null(0).cast(pl.Float64).to_numpy()

    @cached_property
    def vectors(self) -> sparse.csr_array:
        """Each item's words, TF-IDF weighted, of length 1; shape (items, words).

        The weight is tf · ln(items / items with the word), words in lower case (Salton and
        Buckley, "Term-weighting approaches in automatic text retrieval", 1988). An item without
        words, or with words only that all have, is all zeros.
        """
        import polars as pl
        from scipy import sparse

        words = pl.DataFrame({"text": self._texts}).with_row_index("item")
        words = words.select("item", pl.col("text").str.to_lowercase().str.extract_all(r"\w+"))
        counts = words.explode("text").drop_nulls().group_by("item", "text").len()
        code = counts["text"].cast(pl.Categorical).rank("dense").to_numpy().astype(np.int64) - 1
        items, often = counts["item"].to_numpy(), counts["len"].to_numpy()
        spread = np.bincount(code, minlength=1)
        weights = often * np.log(len(self._texts) / spread[code]) if len(code) else often * 1.0
        norms = np.sqrt(np.bincount(items, weights**2, len(self._texts)))
        weights = weights / np.where(norms > 0, norms, 1.0)[items]
        return sparse.csr_array((weights, (items, code)), shape=(len(self._texts), len(spread)))


@dataclass(frozen=True, slots=True)
class Shown:
    """Which items stand in the first k places of one ranker's lists.

    Attributes:
        row: The query of each pair; shape (pairs,), as the next three.
        item: The item's code.
        chance: That the item stands there: below 1 where it ties with others around place k.
        together: That two of those items of a query that have this chance below 1 stand there.
        queries: How many queries there are.
    """

    row: Counts
    item: Counts
    chance: Floats
    together: Floats
    queries: int

    @classmethod
    def of(cls, batches: Sequence[Places], queries: int) -> Shown:
        """Puts together what `first_places` found."""
        if not batches:
            none = np.zeros(0)
            return cls(none.astype(np.int64), none.astype(np.int64), none, none, queries)
        row, item, left, tied = (np.concatenate(part) for part in zip(*batches, strict=True))
        pairs = np.maximum(tied * (tied - 1), 1)
        return cls(row, item, left / tied, left * (left - 1) / pairs, queries)

    def mean(self, values: Floats) -> Floats:
        """The mean over each query's items; 0 where nothing is shown; shape (queries,)."""
        total = _sums(self.row, self.chance * values[self.item], self.queries)
        return total / np.maximum(self.size, 1)

    @property
    def size(self) -> Floats:
        """How many items are shown of each query, at most k; shape (queries,)."""
        return np.round(_sums(self.row, self.chance, self.queries))


def first_places(batch: Batch, k: int) -> Places:
    """The items that may stand in the first k places."""
    at, place = np.nonzero((batch.above < k) & (batch.codes >= 0))
    above, tied = batch.above[at, place], batch.tied[at, place]
    left = np.minimum(k - above, tied)
    return batch.rows[at], batch.codes[at, place].astype(np.int64), left, tied


def novelty(shown: Shown, key: AnswerKey, facts: ItemFacts) -> Floats:
    """Mean self-information of the first k items, log2(users / users who have the item), in bits.

    Zhou et al., "Solving the apparent diversity-accuracy dilemma of recommender systems" (PNAS
    2010), equation 4. An item that nobody has counts as if one user had it.
    """
    return shown.mean(np.log2(max(facts.users, 1) / np.maximum(facts.popularity, 1)))


def popularity(shown: Shown, key: AnswerKey, facts: ItemFacts) -> Floats:
    """Mean number of users of the first k items: average recommendation popularity (ARP).

    Yin et al., "Challenging the long tail recommendation" (VLDB 2012), with users of what rankers
    are fitted on; the lower, the weaker the bias to popular items.
    """
    return shown.mean(facts.popularity)


def diversity(shown: Shown, key: AnswerKey, facts: ItemFacts) -> Floats:
    """Mean distance of two of the first k items: 1 − the cosine of their texts' TF-IDF vectors.

    Intra-list distance (Smyth and McClave, "Similarity vs. diversity", ICCBR 2001, equation 2;
    Ziegler et al., WWW 2005). 0 where fewer than two items are shown.
    """
    from scipy import sparse

    vectors = facts.vectors
    shape = (shown.queries, vectors.shape[0])
    sure = shown.chance >= 1

    def chosen(of: Mask, values: Floats) -> sparse.csr_array:
        return sparse.csr_array((values[of], (shown.row[of], shown.item[of])), shape=shape)

    ones = np.ones(len(shown.row))
    lengths = np.asarray(vectors.multiply(vectors).sum(axis=1)).ravel()
    high, low = chosen(sure, ones) @ vectors, chosen(~sure, ones) @ vectors
    weighted = chosen(~sure, shown.chance) @ vectors

    def dot(one: sparse.csr_array, other: sparse.csr_array) -> Floats:
        return np.asarray(one.multiply(other).sum(axis=1)).ravel()

    def own(of: Mask) -> Floats:
        return _sums(shown.row[of], lengths[shown.item[of]], shown.queries)

    # a query has one group of ties around place k at most, so its pairs have one chance
    both = np.zeros(shown.queries)
    both[shown.row[~sure]] = shown.together[~sure]
    alike = (dot(high, high) - own(sure)) / 2 + dot(high, weighted)
    alike += both * (dot(low, low) - own(~sure)) / 2
    pairs = shown.size * (shown.size - 1) / 2
    return np.where(pairs > 0, 1 - alike / np.maximum(pairs, 1), 0.0)


def coverage(shown: Shown, key: AnswerKey, facts: ItemFacts) -> float:
    """Share of the catalog that stands in the first k of some list.

    Catalog coverage (Ge, Delgado-Battenfeld and Jannach, "Beyond accuracy", RecSys 2010).
    Expected over ties: Σ 1 − Π (1 − w) over the lists, divided by the number of items.
    """
    with np.errstate(divide="ignore"):
        missed = np.log1p(-np.minimum(shown.chance, 1.0))
    never = np.exp(np.bincount(shown.item, missed, len(facts.ids)))
    return float((1 - never).mean())


def gini(shown: Shown, key: AnswerKey, facts: ItemFacts) -> float:
    """How unevenly recommendations fall on the catalog's items: 0 alike, near 1 all on one.

    Σ (2j − n − 1) cⱼ / (n Σ c) with the n items' numbers c of recommendations, rising (Fleder and
    Hosanagar, "Blockbuster culture's next rise or fall", Management Science 2009). Of ties the
    expected numbers count.
    """
    counts = np.sort(np.bincount(shown.item, shown.chance, len(facts.ids)))
    n, total = len(counts), counts.sum()
    return float((2 * np.arange(1, n + 1) - n - 1) @ counts / (n * total)) if total else 0.0


def popularity_lift(shown: Shown, key: AnswerKey, facts: ItemFacts) -> float:
    """How much more popular the first k items are than the users' histories: 0 alike, 1 twice.

    (ARP of the lists − ARP of the histories) / ARP of the histories, each a mean over queries of
    mean popularity (Abdollahpouri et al., "The unfairness of popularity bias in recommendation",
    2019). Queries without a history or a list are left out.
    """
    row, code = key.history_items
    row, code = row[code >= 0], code[code >= 0]
    sizes = np.bincount(row, minlength=shown.queries)
    total = np.bincount(row, facts.popularity[code], shown.queries)
    both = (sizes > 0) & (shown.size > 0)
    before = float((total[both] / sizes[both]).mean()) if both.any() else 0.0
    after = float(shown.mean(facts.popularity)[both].mean()) if both.any() else 0.0
    return (after - before) / before if before else 0.0


def _sums(row: Counts, values: Floats, queries: int) -> Floats:
    """The sum of each query's values."""
    return np.bincount(row, values, queries).astype(np.float64)
