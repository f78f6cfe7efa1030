"""Judges summaries by what they are for: how likely the ranking model finds the next item."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from trsr.errors import PromptError
from trsr.progress import Progress
from trsr.rank import Ranker, rank_what_fits
from trsr.types import Case, Query, RankedList, Summary


def log_likelihood(ranked: RankedList, relevant: frozenset[str]) -> float:
    """The log-probability of what the user took, in a softmax over the candidates' scores.

    Minus the loss `listwise` that the ranking model is trained with; several relevant candidates
    count their mean.

    Args:
        ranked: All candidates of a query, each score log p(yes) − log p(no).
        relevant: The right ones.

    Returns:
        At most 0; −log(candidates) where nothing is told apart. Natural logarithms.
    """
    scores = np.array([entry.score for entry in ranked])
    highest = float(scores.max())
    total = highest + float(np.log(np.exp(scores - highest).sum()))
    taken = [entry.score - total for entry in ranked if entry.item in relevant]
    return float(np.mean(taken))


def judge_summaries(
    ranker: Ranker,
    cases: Sequence[Case],
    summaries: Sequence[Mapping[str, Summary]],
    progress: Progress,
) -> list[dict[str, RankedList]]:
    """Ranks the candidates of each case once with each of its summaries.

    Args:
        ranker: Ranks with the judge.
        cases: The cases; those that cannot be asked are left out of what is given back.
        summaries: Of each case by query id; several such tables.
        progress: Advanced by one a summary.

    Returns:
        For each table, the ranked list of each query.
    """
    told: dict[str, tuple[int, str]] = {}

    def queries() -> Iterator[Query]:
        # all of one user's stand together: their prompts begin alike up to the summary
        for case in cases:
            for table, known in enumerate(summaries):
                name = f"{case.query.id} with summary {table}"
                told[name] = (table, case.query.id)
                yield dataclasses.replace(case.query, id=name, summary=known[case.query.id])

    def skipped(query: Query, error: PromptError) -> None:
        progress.advance(1, "a prompt does not fit")

    found: list[dict[str, RankedList]] = [{} for _ in summaries]
    for ranked in rank_what_fits(ranker, queries(), skipped):
        table, query = told.pop(ranked.query)
        found[table][query] = RankedList(query, ranked.entries)
        progress.advance()
    return found
