"""What a ranking model reads of a case, and checks of what it shows: ids, items alike."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import polars as pl

from trsr.experiments.audit.evidence import Check, Evidence, State, counted
from trsr.pipeline.artifacts import with_summary
from trsr.settings import derive_seed
from trsr.types import Case, Item, Query

LOOKED_AT = 2000
"""Cases of a split whose texts are read, drawn by lot."""
LOOKED_AT_FULL = 200
"""As many of those whose candidates are the whole catalog: each takes its time."""
ALIKE = 0.05
"""The share of queries with a candidate that reads as the target, from which it is a finding."""

_MARK = "⟦candidate⟧"


@dataclass
class Reader:
    """Reads what a ranking model is shown.

    Attributes:
        run: The run.
    """

    run: Evidence

    def shared(self, query: Query) -> str:
        """What a judge prompt says apart from the candidate."""
        fields = tuple(self.run.config.prompts.fields) or ("title",)
        probe = Query(query.id, query.history, (Item("?", ((fields[0], _MARK),)),), query.summary)
        (prompt,) = self.run.writer.rank(probe)
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
