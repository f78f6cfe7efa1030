"""Checks of what a ranking model reads: ids, items alike, summaries alike, context that fits."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

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
BYTES_PER_TOKEN = 3
"""Of UTF-8, about: titles of products have 2.6 and of films 2.8 to 3.5 with SmolLM2's tokens."""
MOSTLY_FITS = 0.9
"""The share of histories that must fit for the full history to be worth a run of its own."""
CONTEXT_FIT = "does the whole history fit into the prompt"

_MARK = "⟦candidate⟧"


@dataclass
class Reader:
    """Reads what a ranking model is shown.

    Attributes:
        run: The run.
    """

    run: Evidence

    def shared(self, query: Query) -> str:
        """What a ranking prompt says apart from the candidate."""
        fields = tuple(self.run.config.prompts.fields) or ("title",)
        probe = Query(query.id, query.history, (Item("?", ((fields[0], _MARK),)),), query.summary)
        (prompt,) = self.run.writer.rank(probe)
        return "\n".join(message.shown for message in prompt.messages)

    def cases(self, split: str) -> Iterator[Case]:
        """At most `LOOKED_AT` sampled cases of a split, with the summaries that prompts show."""
        cases = self.run.cases[split]
        names = cases.frame["query"].to_list()
        most = LOOKED_AT_FULL if cases.full else LOOKED_AT
        if len(names) > most:
            names = sorted(names, key=lambda name: derive_seed(0, "audit", name))[:most]
            cases = cases.only(pl.col("query").is_in(names))
        for case in cases:
            yield with_summary(case, self.run.prompt_summaries)


def ids_in_prompt(run: Evidence) -> bool:
    """Whether prompts show items' ids, looked for in the first test cases."""
    reader = Reader(run)
    seen = looked = 0
    for case, _ in zip(reader.cases("test"), range(20), strict=False):
        shown = reader.shared(case.query)
        ids = [item.id for item in case.query.history.recent(run.config.prompts.recent)]
        looked += len(ids)
        seen += sum(bool(re.search(rf"(?<!\w){re.escape(one)}(?!\w)", shown)) for one in ids)
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
    for case in Reader(run).cases("test"):
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


def context_fit(run: Evidence) -> Check:
    """How many tokens test histories take when all items are listed, and how many of them fit.

    Where they fit, a summary has to beat the items themselves.
    """
    config, reader = run.config, Reader(run)
    items, words = run.dataset.catalog, config.prompts.words
    # a listed item is "- …\n"
    sizes = {item.id: len(run.writer.item_text(item, words).encode()) + 3 for item in items}
    longest_item = max(sizes.values(), default=0)
    lengths, tokens, fitting = [], [], 0
    for case in reader.cases("test"):
        history = case.query.history.items
        # what the prompt says now stays: the instruction above all
        rest = len(reader.shared(case.query).encode()) + longest_item
        lengths.append(len(history))
        tokens.append(sum(sizes[item.id] for item in history) / BYTES_PER_TOKEN)
        fitting += tokens[-1] <= config.model.context_tokens - rest / BYTES_PER_TOKEN
    if not lengths:
        return Check(CONTEXT_FIT, "skipped", "there are no test cases")
    most, fits = max(lengths), fitting / len(lengths)
    median, longest = statistics.median(tokens), max(tokens)
    numbers = {"items": most, "tokens": median, "longest": longest, "fits": fits}
    seen = (
        f"{most:,} items at most, about {median:,.0f} tokens at the median, {longest:,.0f} at the "
        f"longest; {100 * fits:.0f} % fit into {config.model.context_tokens:,} tokens"
    )
    if config.prompts.recent >= most:
        seen = f"the prompt lists all of it: {seen}"
    elif fits < MOSTLY_FITS:
        seen = f"{seen}, so something must stand for the rest"
    else:
        other = f"summarize.strategy=none prompts.recent={most}"
        seen = f"{seen}; compare with a run that lists all of it ({other}): a summary has to "
        seen = f"{seen}beat that"
    return Check(CONTEXT_FIT, "ok", seen, numbers)


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
