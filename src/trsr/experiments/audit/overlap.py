"""Checks that look for the target's words, some of which may be told where the whole is not."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from trsr.experiments.audit.evidence import Check, Evidence, folded
from trsr.experiments.audit.texts import Reader
from trsr.pipeline.artifacts import SPLITS
from trsr.settings import derive_seed
from trsr.types import Case, Item

LEAKED, SURELY = 0.6, 0.55
"""A finding: AUC above the first, and its 95 % interval above the second."""
SOME = 0.52
"""A warning: AUC above this, and over 3 standard errors above chance."""
DRAWN = 100
"""Negatives of a query that are looked at, drawn by lot."""
FEW = 10
"""With fewer texts of a split nothing is said of it."""


class Words:
    """The words of items, found once an item."""

    def __init__(self, reader: Reader) -> None:
        self._fields = frozenset(reader.run.config.prompts.fields)
        self._of: dict[tuple[str, bool], frozenset[str]] = {}

    def of(self, item: Item, *, told: bool) -> frozenset[str]:
        """Of the fields that the prompts show, or of all of them."""
        key = item.id, told
        if key not in self._of:
            fields = self._fields if told else frozenset()
            texts = (value for name, value in item.fields if not fields or name in fields)
            self._of[key] = frozenset(folded(" ".join(texts)).split())
        return self._of[key]


def words_in_summary(run: Evidence) -> Check:
    """Whether summaries say more words of what their users took next than of the negatives."""
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
    return _check(name, "summaries", reader, texts)


def words_in_prompt(run: Evidence) -> Check:
    """Whether what stands before the candidate says more words of the target than of negatives."""
    reader = Reader(run)
    texts = {"test": [(case, reader.shared(case.query)) for case in reader.cases("test")]}
    return _check("words of the target in the prompt", "prompts", reader, texts)


def _check(name: str, what: str, reader: Reader, texts: dict[str, list[tuple[Case, str]]]) -> Check:
    """Each split is judged alone: a leak into a small one must not drown in the others."""
    words = Words(reader)
    told: list[str] = []
    numbers: dict[str, float | int | str | None] = {}
    states = set()
    for split, read in texts.items():
        each = np.array(list(_aucs(words, read)))
        if len(each) < FEW:
            continue
        auc, error = float(each.mean()), float(each.std(ddof=1)) / math.sqrt(len(each))
        numbers |= {split: auc, f"{split} se": error, f"{split} {what}": len(each)}
        told.append(f"{split} {auc:.3f} ±{error:.3f}")
        if auc > LEAKED and auc - 1.96 * error > SURELY:
            states.add("finding")
        elif auc > SOME and auc - 0.5 > 3 * error:
            states.add("warning")
    if not told:
        return Check(name, "skipped", f"there are too few {what} to read")
    seen = f"AUC of their number, the history's words apart: {', '.join(told)}"
    if "finding" in states:
        return Check(name, "finding", f"{seen}: the answer is told in part", numbers)
    if "warning" in states:
        advice = "more than of negatives; read some: a model that knows the items may guess them"
        return Check(name, "warning", f"{seen}: {advice}", numbers)
    return Check(name, "ok", seen, numbers)


def _aucs(words: Words, read: Sequence[tuple[Case, str]]) -> Iterator[float]:
    """The chance, a text each, that it says more words of the target than of a negative.

    Words of the history are left out: taste, not a leak, makes them the target's too. So are
    words that all texts share, such as the prompt's own, which tell no query from another.
    """
    split = [(case, frozenset(folded(text).split())) for case, text in read]
    shared = frozenset.intersection(*(said for _, said in split)) if split else frozenset()
    for case, said in split:
        query = case.query
        history = query.history.items
        met = {item.id for item in history}
        # A given list may hold met items, whose words are the history's.
        asked = [item for item in query.candidates if item.id not in met]
        known = frozenset().union(*(words.of(item, told=False) for item in history))
        own = said - shared - known
        right = [item for item in asked if item.id in case.relevant]
        wrong = _drawn(query.id, [item for item in asked if item.id not in case.relevant])
        if right and wrong:
            hits = np.array([[len(own & words.of(item, told=True))] for item in right])
            others = np.array([len(own & words.of(item, told=True)) for item in wrong])
            yield float((hits > others).mean() + (hits == others).mean() / 2)


def _drawn(query: str, items: Sequence[Item]) -> Sequence[Item]:
    if len(items) <= DRAWN:
        return items
    draw = np.random.default_rng(derive_seed(0, "audit words", query))
    return [items[at] for at in draw.choice(len(items), DRAWN, replace=False)]
