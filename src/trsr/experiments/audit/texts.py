"""Checks of what a ranking model reads: ids, items alike, summaries alike."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import polars as pl

from trsr.data.readers.base import plain
from trsr.data.roles import TITLES
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
NAMING = 4
"""So many first words of a title stand for it in another item's text; of a shorter one all."""
NAMED, NAMED_SOME, NAMED_FIRST = 0.1, 0.02, 0.1
"""By how much targets are named more than negatives: a finding, a warning, and a warning where the
title begins the text, as it does between variants of a product or parts of a series."""

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


def target_named(run: Evidence) -> Check:
    """Whether items of the history name the target in their texts, or it names them.

    `words_in_prompt` leaves out the history's words, as taste makes them the target's too. A whole
    title inside the text of another item is more than taste.
    """
    name = "the target's title in texts of the history"
    column, keys = _titles(run)
    if not column:
        return Check(name, "skipped", "no column of the items has texts that tell them apart")
    marked = {
        item.id: "".join(f"\n{folded(text)} " for _, text in item.fields)
        for item in run.dataset.catalog
    }
    found = [one for case in sampled(run, "test") if (one := _named(case, keys, marked))]
    if len(found) < FEW:
        return Check(name, "skipped", "there are too few test queries to read")
    each = np.array(found)  # (queries, target or negatives, inside or first)
    more = each[:, 0] - each[:, 1]
    excess, errors = more.mean(axis=0), more.std(axis=0, ddof=1) / math.sqrt(len(each))
    inside, first = (excess > 3 * errors) * excess
    right, wrong = each.mean(axis=0)
    seen = (
        f"{100 * right[0]:.1f} % of the targets, {100 * wrong[0]:.1f} % of the negatives (as the "
        f"first words of a text {100 * right[1]:.1f} % and {100 * wrong[1]:.1f} %; by {column})"
    )
    numbers = {"targets": float(right[0]), "negatives": float(wrong[0]), "queries": len(each)}
    numbers |= {"targets, first words": float(right[1]), "negatives, first words": float(wrong[1])}
    if inside > NAMED:
        gives = "the items' texts give the answer away; leave what names other items out of them"
        return Check(name, "finding", f"{seen}: {gives}", numbers)
    if inside > NAMED_SOME or first > NAMED_FIRST:
        advice = "series and variants of a product do so, and a leak does; read some"
        return Check(name, "warning", f"{seen}: {advice}", numbers)
    return Check(name, "ok", seen, numbers)


def _titles(run: Evidence) -> tuple[str, dict[str, str]]:
    """The column that names items, and of each item the first words of it; "" where none does."""
    own = {plain(name): name for name in run.dataset.catalog.columns}
    titled = [own[name] for name in TITLES if name in own]
    for column in (*titled, *run.config.prompts.fields, *own.values()):
        texts = [folded(dict(item.fields).get(column, "")) for item in run.dataset.catalog]
        keys = [" ".join(text.split()[:NAMING]) for text in texts]
        # of one word nobody knows whether it is the title; a brand is shared, and names no item
        if len({key for key in keys if " " in key}) > sum(map(bool, keys)) / 2:
            return column, dict(zip(run.dataset.catalog.ids, keys, strict=True))
    return "", {}


def _named(
    case: Case, keys: Mapping[str, str], marked: Mapping[str, str]
) -> list[list[float]] | None:
    """[target or negatives][inside or first]: the share that is named, or names; None: no query.

    Args:
        case: The query and its answer.
        keys: Of each item the first words of its title.
        marked: Of each item its texts, each between a line's end and a space.
    """
    history = [item.id for item in case.query.history.items]
    text = "".join(marked[item] for item in history)
    theirs = [keys[item] for item in history]

    def named(items: Sequence[Item]) -> list[float]:
        counts = np.zeros(2)
        for item in items:
            pairs = [(keys[item.id], text), *((key, marked[item.id]) for key in theirs)]
            pairs = [pair for pair in pairs if " " in pair[0]]
            first = any(f"\n{key} " in other for key, other in pairs)
            inside = not first and any(f" {key} " in other for key, other in pairs)
            counts += (inside, first)
        return list(counts / len(items))

    right, wrong = _unseen(case)
    return [named(right), named(wrong)] if right and wrong else None


def _unseen(case: Case) -> tuple[Sequence[Item], Sequence[Item]]:
    """The answers and negatives, but those that a given list has from the history."""
    seen = {item.id for item in case.query.history.items}
    candidates = [item for item in case.query.candidates if item.id not in seen]
    right = [item for item in candidates if item.id in case.relevant]
    wrong = [item for item in candidates if item.id not in case.relevant]
    return right, _some(case.query.id, wrong)


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
        known = frozenset().union(
            *(words.of(item, in_prompt=False) for item in query.history.items)
        )
        left = own - shared - known
        # A given list may hold seen items, whose words are the history's.
        right, wrong = (
            np.array([len(left & words.of(item, in_prompt=True)) for item in items])
            for items in _unseen(case)
        )
        if len(right) and len(wrong):
            yield auc(right, wrong)


def _some(query: str, items: Sequence[Item]) -> Sequence[Item]:
    if len(items) <= NEGATIVES:
        return items
    rng = np.random.default_rng(derive_seed(0, "audit words", query))
    return [items[at] for at in rng.choice(len(items), NEGATIVES, replace=False)]
