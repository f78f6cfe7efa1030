"""The method's ranker: a language model says yes or no to each candidate."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from trsr.errors import ModelError
from trsr.types import Query, RankedList, UserHistory

if TYPE_CHECKING:
    import numpy.typing as npt

    from trsr.llm import ScoringModel
    from trsr.prompts import PromptWriter
    from trsr.rank.base import RankContext, Ranker


class YesNoRanker:
    """Ranks candidates by how much likelier the model's answer is yes than no.

    A candidate's score is the margin log p(yes) − log p(no). LLM-TRSR (arXiv 2403.13325) takes the
    softmax over the two answers' logits instead; that is `p_yes(margin)`, the same order. The
    margin is kept because a softmax near 0 or 1 rounds different margins to the same number, and
    would make ties that the model did not mean.

    Args:
        model: Gives the answers' log-probabilities.
        writer: Words each candidate's prompt; holds the two answers.
        queries_per_batch: How many queries' prompts go to the model in one call. More share the
            work better; the lists do not depend on it beyond rounding.

    Raises:
        ValueError: If `queries_per_batch` is below 1.
    """

    def __init__(
        self, model: ScoringModel, writer: PromptWriter, queries_per_batch: int = 8
    ) -> None:
        if queries_per_batch < 1:
            raise ValueError(f"a batch holds at least one query, not {queries_per_batch}")
        self.model = model
        self.writer = writer
        self.queries_per_batch = queries_per_batch

    def rank(self, queries: Iterable[Query]) -> Iterator[RankedList]:
        """Yields one list a query, in their order; reads at most one batch ahead.

        Raises:
            PromptError: If a query's prompt cannot be made to fit (see `rank_what_fits`).
            ModelError: If the model fails, or gives something that is not a finite number.
        """
        source = iter(queries)
        while batch := list(islice(source, self.queries_per_batch)):
            yield from self._rank_batch(batch)

    def _rank_batch(self, batch: list[Query]) -> Iterator[RankedList]:
        prompts = [prompt for query in batch for prompt in self.writer.judge(query)]
        yes_no = self.model.score(prompts, self.writer.answers)
        due = sum(len(query.candidates) for query in batch)
        if yes_no.shape != (due, 2):
            raise ModelError(
                f"model {self.model.identity} was asked for {due} × 2 log-probabilities and gave "
                f"{' × '.join(map(str, yes_no.shape))}"
            )
        # Both may be −inf, whose difference is not a number: told below, not as a warning here.
        with np.errstate(invalid="ignore"):
            margins = yes_no[:, 0] - yes_no[:, 1]
        start = 0
        for query in batch:
            end = start + len(query.candidates)
            yield RankedList.of(query, self._checked(query, margins[start:end]))
            start = end

    def _checked(self, query: Query, margins: npt.NDArray[np.float64]) -> list[float]:
        bad = np.flatnonzero(~np.isfinite(margins))
        if len(bad):
            raise ModelError(
                f"query {query.id}: model {self.model.identity} gave {margins[bad[0]]} as the "
                f"score of candidate {query.candidates[int(bad[0])].id}; its weights or its "
                "number format are broken (try model.dtype=float32)"
            )
        return [float(margin) for margin in margins]


class CandidateOnlyRanker:
    """What a ranker makes of the candidates alone: each user is told as one on a first visit.

    A model whose answers hang on the item alone ranks as well without the user as with. The
    converse is weaker: training told of a history each time, so a part of what is lost here may be
    the unfamiliar prompt's. After the hypothesis-only baseline of textual entailment (Poliak et
    al., *SEM 2018), which is trained without the other part.

    A prompt then depends on its candidate alone, so that with the output store the model is asked
    about each item once.

    Args:
        ranker: Asks the model; it is given the queries without their history and summary.
    """

    def __init__(self, ranker: Ranker) -> None:
        self.ranker = ranker

    def rank(self, queries: Iterable[Query]) -> Iterator[RankedList]:
        """Yields one list a query, in their order.

        Raises:
            PromptError: If a candidate does not fit.
            ModelError: If the model fails, or gives something that is not a finite number.
        """
        return self.ranker.rank(
            dataclasses.replace(query, history=UserHistory(query.history.user, ()), summary=None)
            for query in queries
        )


def p_yes(margin: float) -> float:
    """The probability of yes against no at a margin: the softmax over the two answers."""
    # The exponent is never positive, so it cannot overflow.
    small = math.exp(-abs(margin))
    return 1 / (1 + small) if margin >= 0 else small / (1 + small)


def make_tuned(context: RankContext) -> Ranker:
    """The yes/no ranker with the trained model."""
    return YesNoRanker(*context.judge(True), context.queries_per_batch)


def make_untuned(context: RankContext) -> YesNoRanker:
    """The yes/no ranker with the model that training started from."""
    return YesNoRanker(*context.judge(False), context.queries_per_batch)


def make_candidate_only(context: RankContext) -> CandidateOnlyRanker:
    """The trained model without the user."""
    return CandidateOnlyRanker(YesNoRanker(*context.judge(True), context.queries_per_batch))
