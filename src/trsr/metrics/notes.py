"""What a reader of the numbers must know, in plain sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from trsr.metrics.answers import AnswerKey
from trsr.metrics.report import Note, Scores
from trsr.metrics.tables import share

FEW = 30
"""Below this many queries a normal interval is rough."""

TIED_OFTEN = 0.05
"""From this share of queries on, ties are worth a sentence."""

_TIES = "each tie counts as its expected value over random orders."
"""Ends that sentence."""


def notes(
    key: AnswerKey,
    rankers: Sequence[Scores],
    *,
    sampled: bool,
    drawn: str = "",
) -> Iterator[Note]:
    """Yields the sentences that these results call for."""
    yield from _about_size(key)
    if len(key):
        yield from _about_candidates(key, sampled, drawn)
    for scores in rankers:
        yield from _about_ranker(scores)


def _about_size(key: AnswerKey) -> Iterator[Note]:
    users = len(set(key.users))
    if not len(key):
        yield Note("There are no queries: nothing can be said about any ranker.", serious=True)
    elif len(key) == 1:
        yield Note(
            "There is one query: its values are shown, but one query has no standard error, and "
            "nothing can be said about others.",
            serious=True,
        )
    elif len(key) < FEW:
        yield Note(f"{len(key)} queries are few: the standard errors are rough.", serious=True)
    if users < len(key):
        yield Note(
            f"The {len(key):,} queries are of {users:,} {'user' if users == 1 else 'users'}; "
            "the standard errors take them as independent, so they are too small where a user's "
            "queries are alike."
        )


def _about_candidates(key: AnswerKey, sampled: bool, drawn: str) -> Iterator[Note]:
    fewest, most = int(key.candidates.min()), int(key.candidates.max())
    if sampled:
        how = {"uniform": ", drawn uniformly", "popular": ", drawn by popularity"}.get(drawn, "")
        yield Note(
            f"Candidates are sampled ({_range(fewest, most)} a query{how}): these values are far "
            f"above those of ranking the whole catalog, may order rankers differently, and "
            "compare only with values of the same protocol (Krichene and Rendle, KDD 2020).",
            serious=True,
        )
    if fewest < most:
        yield Note(
            f"Queries have {_range(fewest, most)} candidates: fewer candidates make higher values, "
            "so compare rankers within this table only."
        )
    alike = int(np.count_nonzero(key.relevant == key.candidates))
    if alike:
        yield Note(
            f"In {alike:,} {_queries(alike)} all candidates are relevant: every order is right, so "
            "they tell rankers apart in nothing (auc is .5 there)."
        )


def _about_ranker(scores: Scores) -> Iterator[Note]:
    if scores.missing:
        yield Note(
            f"{scores.ranker}: {scores.missing:,} of {scores.queries:,} {_queries(scores.queries)} "
            "without a result; each counts as 0 and stays in the mean.",
            serious=True,
        )
    if scores.tied is not None and scores.tied >= TIED_OFTEN:
        yield Note(
            f"{scores.ranker}: in {share(scores.tied)} of the queries a relevant item ties with "
            f"another candidate; {_TIES}"
        )


def on_ties(note: str) -> bool:
    """Whether a note is about a ranker's ties, which a table may have a column for."""
    return note.endswith(_TIES)


def on_errors(note: str) -> bool:
    """Whether a note is about standard errors over queries, which a table may have none of."""
    return "standard error" in note


def _range(fewest: int, most: int) -> str:
    return f"{fewest:,}" if fewest == most else f"{fewest:,} to {most:,}"


def _queries(count: int) -> str:
    return "query" if count == 1 else "queries"
