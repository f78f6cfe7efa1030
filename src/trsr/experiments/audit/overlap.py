"""Checks that look for the target's words: a text may give a target away in part."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from trsr.experiments.audit.evidence import Check, Evidence, auc, folded
from trsr.experiments.audit.texts import Reader
from trsr.pipeline.artifacts import SPLITS
from trsr.settings import derive_seed
from trsr.types import Case, Item

LEAKED, SURELY = 0.6, 0.55
"""A finding: AUC above the first, and its 95 % interval above the second."""
SOME = 0.52
"""A warning: AUC above this, and over 3 standard errors above chance."""
NEGATIVES = 100
"""Negatives of a query that are looked at, sampled at random."""
FEW = 10
"""With fewer texts of a split nothing is said of it."""

Texts = Sequence[tuple[Case, str]]


class Words:
    """The words of items, found once an item."""

    def __init__(self, run: Evidence) -> None:
        self._fields = frozenset(run.config.prompts.fields)
        self._of: dict[tuple[str, bool], frozenset[str]] = {}

    def of(self, item: Item, *, in_prompt: bool) -> frozenset[str]:
        """Of the fields that the prompts show, or of all of them."""
        key = item.id, in_prompt
        if key not in self._of:
            fields = self._fields if in_prompt else frozenset()
            texts = (value for name, value in item.fields if not fields or name in fields)
            self._of[key] = frozenset(folded(" ".join(texts)).split())
        return self._of[key]


def words_in_summary(run: Evidence) -> Check:
    """Whether summaries say more words of their users' next items than of the negatives."""
    name = "words of the target in the summary"
    if not run.summaries:
        return Check(name, "skipped", "the run has no summaries")
    reader = Reader(run)
    texts = {
        split: [
            (case, case.query.summary.text)
            for case in reader.cases(split)
            if case.query.summary is not None and case.query.summary.text
        ]
        for split in SPLITS
    }
    return _check(name, "summaries", run, texts)


def words_in_prompt(run: Evidence) -> Check:
    """Whether what stands before the candidate says more words of the target than of negatives."""
    reader = Reader(run)
    texts = {"test": [(case, reader.shared(case.query)) for case in reader.cases("test")]}
    return _check("words of the target in the prompt", "prompts", run, texts)


def _check(name: str, what: str, run: Evidence, texts: Mapping[str, Texts]) -> Check:
    """Each split is judged alone: a leak into a small one must not drown in the others."""
    words = Words(run)
    shown: list[str] = []
    numbers: dict[str, float | int | str | None] = {}
    states = set()
    for split, pairs in texts.items():
        each = np.array(list(_aucs(words, pairs)))
        if len(each) < FEW:
            continue
        mean, error = float(each.mean()), float(each.std(ddof=1)) / math.sqrt(len(each))
        numbers |= {split: mean, f"{split} se": error, f"{split} {what}": len(each)}
        shown.append(f"{split} {mean:.3f} ±{error:.3f}")
        if mean > LEAKED and mean - 1.96 * error > SURELY:
            states.add("finding")
        elif mean > SOME and mean - 0.5 > 3 * error:
            states.add("warning")
    if not shown:
        return Check(name, "skipped", f"there are too few {what} to read")
    seen = f"AUC of their number, without the history's words: {', '.join(shown)}"
    if "finding" in states:
        return Check(name, "finding", f"{seen}: they give the answer away in part", numbers)
    if "warning" in states:
        advice = "more than of negatives; read some: a model that knows the items may guess them"
        return Check(name, "warning", f"{seen}: {advice}", numbers)
    return Check(name, "ok", seen, numbers)


def _aucs(words: Words, pairs: Texts) -> Iterator[float]:
    """The chance, a text each, that it says more words of the target than of a negative.

    Words of the history are left out: taste, not a leak, makes them the target's too. So are
    words that all texts share, such as the prompt's own, which tell no query from another.
    """
    said = [frozenset(folded(text).split()) for _, text in pairs]
    shared = frozenset.intersection(*said) if said else frozenset()
    for (case, _), own in zip(pairs, said, strict=True):
        query = case.query
        history = query.history.items
        seen = {item.id for item in history}
        known = frozenset().union(*(words.of(item, in_prompt=False) for item in history))
        left = own - shared - known
        # A given list may hold seen items, whose words are the history's.
        candidates = [item for item in query.candidates if item.id not in seen]
        right = [item for item in candidates if item.id in case.relevant]
        wrong = [item for item in candidates if item.id not in case.relevant]
        counts = [
            np.array([len(left & words.of(item, in_prompt=True)) for item in items])
            for items in (right, _sampled(query.id, wrong))
        ]
        if right and wrong:
            yield auc(*counts)


def _sampled(query: str, items: Sequence[Item]) -> Sequence[Item]:
    if len(items) <= NEGATIVES:
        return items
    rng = np.random.default_rng(derive_seed(0, "audit words", query))
    return [items[at] for at in rng.choice(len(items), NEGATIVES, replace=False)]
