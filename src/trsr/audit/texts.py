"""Checks that look for the answer in texts: summaries, prompts, and items that read alike."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction

import polars as pl

from trsr.audit.evidence import Check, Evidence, State, counted, folded
from trsr.pipeline.artifacts import SPLITS, with_summary
from trsr.settings import derive_seed
from trsr.types import Case, Item, Query

LOOKED_AT = 2000
"""Cases of a split whose texts are read, drawn by lot."""
LOOKED_AT_FULL = 200
"""As many of those whose candidates are the whole catalogue: each takes its time."""
TITLE = 8
"""Characters that a title must have to be looked for: short ones stand anywhere by chance."""
ALIKE = 0.05
"""The share of queries with a candidate that reads as the target, from which it is a finding."""
SURE = 0.001
"""A difference that chance makes less often than this is a leak."""

_MARK = "⟦candidate⟧"


@dataclass
class Reader:
    """Reads what a ranking model is shown.

    Attributes:
        run: The run.
    """

    run: Evidence

    def title(self, item: Item) -> str:
        """The first field that is told, folded."""
        known = dict(item.fields)
        told = [known[name] for name in self.run.config.prompts.fields if name in known]
        text = told[0] if told else (item.fields[0][1] if item.fields else "")
        return folded(text)

    def shared(self, query: Query) -> str:
        """What a judge prompt says apart from the candidate."""
        fields = tuple(self.run.config.prompts.fields) or ("title",)
        probe = Query(query.id, query.history, (Item("?", ((fields[0], _MARK),)),), query.summary)
        (prompt,) = self.run.writer.judge(probe)
        return "\n".join(message.content for message in prompt.messages)

    def cases(self, split: str) -> Iterator[Case]:
        """At most `LOOKED_AT` of a split's cases, drawn by lot, with the summaries told."""
        cases = self.run.cases.get(split)
        if cases is None:
            return
        names = cases.frame["query"].to_list()
        most = LOOKED_AT_FULL if cases.full else LOOKED_AT
        if len(names) > most:
            names = sorted(names, key=lambda name: derive_seed(0, "audit", name))[:most]
            cases = cases.only(cases_named(names))
        for case in cases:
            yield with_summary(case, self.run.told)


def cases_named(names: Iterable[str]) -> pl.Expr:
    """The cases of these queries."""
    return pl.col("query").is_in(list(names))


@dataclass
class _Tally:
    """How often a text names the target, and how often a negative drawn beside it.

    Attributes:
        given: Whether the candidates are the data's own lists.
        cases: How many texts were read.
        target: How many name the target.
        negative: How many name a negative.
    """

    given: bool
    cases: int = 0
    target: int = 0
    negative: int = 0

    def read(self, reader: Reader, case: Case, text: str) -> None:
        """Reads one text; titles that the history names anyway are nobody's."""
        target = next(item for item in case.query.candidates if item.id in case.relevant)
        others = [item for item in case.query.candidates if item.id not in case.relevant]
        if self.given:
            # Given lists may hold met items, right ones and others; drawn negatives are none.
            met = {item.id for item in case.query.history.items}
            others = [item for item in others if item.id not in met]
            if target.id in met:
                return
        if not others:
            return
        known = " | ".join(
            folded(" ".join(value for _, value in item.fields))
            for item in case.query.history.items
            if item.id not in case.relevant
        )
        place = derive_seed(0, "audit", case.query.id) % len(others)
        text = f" {folded(text)} "
        found = [self._named(reader.title(one), text, known) for one in (target, others[place])]
        self.cases += 1
        self.target += found[0]
        self.negative += found[1]

    def _named(self, title: str, text: str, known: str) -> bool:
        return len(title) >= TITLE and f" {title} " in text and title not in known

    def check(self, name: str, what: str) -> Check:
        """Chance names targets and negatives alike: a sign test tells the leak."""
        numbers = {"cases": self.cases, "target": self.target, "negative": self.negative}
        if not self.cases:
            return Check(name, "skipped", f"there are no {what} to read", numbers)
        chance = at_least(self.target, self.target + self.negative)
        seen = (
            f"{counted(self.target, self.cases, what)} name the target, {self.negative:,} a "
            "negative drawn beside it"
        )
        if self.target > self.negative and chance < SURE:
            return Check(name, "finding", f"{seen}: the answer is told", numbers)
        return Check(name, "ok", seen, numbers)


def at_least(hits: int, draws: int) -> float:
    """The chance of at least `hits` heads among `draws` of a fair coin."""
    heads = sum(math.comb(draws, k) for k in range(hits, draws + 1))
    return float(Fraction(heads, 2**draws))


def target_in_summary(run: Evidence) -> Check:
    """Whether summaries name what their users took next."""
    name = "target in the summary"
    if not run.summaries:
        return Check(name, "skipped", "the run has no summaries")
    reader, tally = Reader(run), _Tally(run.config.data.candidates == "given")
    for split in SPLITS:
        for case in reader.cases(split):
            if case.query.summary is not None and case.query.summary.text:
                tally.read(reader, case, case.query.summary.text)
    return tally.check(name, "summaries")


def target_in_prompt(run: Evidence) -> Check:
    """Whether the part of a prompt before the candidate names what the user took next."""
    reader, tally = Reader(run), _Tally(run.config.data.candidates == "given")
    for case in reader.cases("test"):
        tally.read(reader, case, reader.shared(case.query))
    return tally.check("target in the prompt", "test prompts")


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
    reader = Reader(run)
    texts = run.item_texts
    groups: dict[str, set[str]] = {}
    for item, text in texts.items():
        groups.setdefault(text, set()).add(item)
    alike = sum(len(group) for group in groups.values() if len(group) > 1)
    queries = twins = 0
    for case in reader.cases("test"):
        same = set().union(*(groups[texts[item]] for item in case.relevant)) - case.relevant
        queries += 1
        twins += bool(same) and any(item.id in same for item in case.query.candidates)
    if not queries:
        return Check(name, "skipped", "there are no test cases")
    share = twins / queries
    state: State = "finding" if share >= ALIKE else "warning" if twins else "ok"
    seen = (
        f"in {counted(twins, queries, 'test queries')} a candidate reads as the target does; "
        f"{counted(alike, len(texts), 'items')} read as another one"
    )
    advice = "; tell more fields (prompts.fields, prompts.words), or merge such items"
    numbers = {"share": share, "items alike": alike, "items": len(texts)}
    return Check(name, state, seen + (advice if twins else ""), numbers)
