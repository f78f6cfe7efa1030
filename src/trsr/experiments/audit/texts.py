"""Checks of what a ranking model reads: ids, items alike, summaries alike."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import polars as pl

from trsr.experiments.audit.evidence import Check, Evidence, State, auc, counted, folded
from trsr.pipeline.artifacts import SPLITS, with_summary
from trsr.settings import derive_seed
from trsr.types import Case, Item, Query

LOOKED_AT = 2000
"""Cases of a split whose texts are read, sampled at random."""
LOOKED_AT_FULL = 200
"""As many of those whose candidates are the whole catalog: each takes its time."""
ALIKE = 0.05
"""The share of queries with a candidate that reads as the target, from which it is a finding."""
SAME_SUMMARIES = 0.05
"""The share of empty or repeated summaries, from which it is a warning."""
LEAKED, SURELY = 0.6, 0.55
"""A finding: AUC above the first, and its 95 % interval above the second."""
SOME = 0.52
"""A warning: AUC above this, and over 3 standard errors above chance."""
NEGATIVES = 100
"""Negatives of a query that are looked at, sampled at random."""
FEW = 10
"""With fewer texts of a split nothing is said of it."""

Texts = Sequence[tuple[Case, str]]

_MARK = "⟦candidate⟧"


def shown(run: Evidence, query: Query) -> str:
    """What a ranking prompt says apart from the candidate."""
    fields = tuple(run.config.prompts.fields) or ("title",)
    probe = Query(query.id, query.history, (Item("?", ((fields[0], _MARK),)),), query.summary)
    (prompt,) = run.writer.rank(probe)
    return "\n".join(message.shown for message in prompt.messages)


def sampled(run: Evidence, split: str) -> Iterator[Case]:
    """At most `LOOKED_AT` sampled cases of a split, with the summaries that prompts show."""
    cases = run.cases[split]
    names = cases.frame["query"].to_list()
    most = LOOKED_AT_FULL if cases.full else LOOKED_AT
    if len(names) > most:
        names = sorted(names, key=lambda name: derive_seed(0, "audit", name))[:most]
        cases = cases.only(pl.col("query").is_in(names))
    for case in cases:
        yield with_summary(case, run.summaries)


def ids_in_prompt(run: Evidence) -> bool:
    """Whether prompts show items' ids, looked for in the first test cases."""
    seen = looked = 0
    for case, _ in zip(sampled(run, "test"), range(20), strict=False):
        text = shown(run, case.query)
        ids = [item.id for item in case.query.history.recent(run.config.prompts.recent)]
        looked += len(ids)
        seen += sum(bool(re.search(rf"(?<!\w){re.escape(one)}(?!\w)", text)) for one in ids)
    # A bare number such as 12 stands in a text by chance, but not most of them.
    return looked > 0 and seen > looked / 2


def alike(run: Evidence) -> Check:
    """Whether another candidate reads as the target does: no ranker of texts tells them apart."""
    name = "candidates that read alike"
    texts = run.item_texts
    groups: dict[str, set[str]] = {}
    for item, text in texts.items():
        groups.setdefault(text, set()).add(item)
    alike = sum(len(group) for group in groups.values() if len(group) > 1)
    queries = twins = 0
    for case in sampled(run, "test"):
        same = set().union(*(groups[texts[item]] for item in case.relevant)) - case.relevant
        queries += 1
        twins += any(item.id in same for item in case.query.candidates)
    if not queries:
        return Check(name, "skipped", "there are no test cases")
    share = twins / queries
    state: State = "finding" if share >= ALIKE else "warning" if twins else "ok"
    seen = (
        f"in {counted(twins, queries, 'test queries')} a candidate reads as the target does; "
        f"{counted(alike, len(texts), 'items')} read as another one"
    )
    advice = "; show more fields (prompts.fields, prompts.words), or merge such items"
    numbers = {"share": share, "items alike": alike, "items": len(texts)}
    return Check(name, state, seen + (advice if twins else ""), numbers)


def same_for_all(run: Evidence) -> Check:
    """Whether summaries are empty, or say the same of several users, word for word."""
    name = "summaries that tell no user from another"
    if not run.summaries:
        return Check(name, "skipped", "the run has no summaries")
    users: dict[str, set[str]] = {}
    for summary in run.summaries.values():
        users.setdefault(folded(summary.text), set()).add(summary.user)
    texts = [folded(summary.text) for summary in run.summaries.values()]
    empty = texts.count("")
    shared = sum(bool(text) and len(users[text]) > 1 for text in texts)
    numbers = {"empty": empty, "shared": shared, "summaries": len(texts)}
    seen = f"{empty:,} empty, and {counted(shared, len(texts), 'summaries')} stand for other users"
    if empty + shared < SAME_SUMMARIES * len(texts):
        return Check(name, "ok", f"{seen}, too", numbers)
    advice = "read some (`trsr show`); try prompts.style, a larger model or other item texts"
    return Check(name, "warning", f"{seen}, too; {advice}", numbers)


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
    texts = {
        split: [
            (case, case.query.summary.text)
            for case in sampled(run, split)
            if case.query.summary is not None and case.query.summary.text
        ]
        for split in SPLITS
    }
    return _check(name, "summaries", run, texts)


def words_in_prompt(run: Evidence) -> Check:
    """Whether what stands before the candidate says more words of the target than of negatives."""
    texts = {"test": [(case, shown(run, case.query)) for case in sampled(run, "test")]}
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
            for items in (right, _some(query.id, wrong))
        ]
        if right and wrong:
            yield auc(*counts)


def _some(query: str, items: Sequence[Item]) -> Sequence[Item]:
    if len(items) <= NEGATIVES:
        return items
    rng = np.random.default_rng(derive_seed(0, "audit words", query))
    return [items[at] for at in rng.choice(len(items), NEGATIVES, replace=False)]
