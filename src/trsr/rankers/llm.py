"""The method's ranker: a language model says yes or no to each candidate."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

import numpy as np

from trsr.errors import ModelError
from trsr.rankers.base import Ranker
from trsr.rankers.batch import QueryBatch, ScoreBatch
from trsr.rankers.settings import Traits

if TYPE_CHECKING:
    from trsr.models import ScoringModel
    from trsr.prompts import PromptWriter


class PointwiseLLMRanker(Ranker):
    """Ranks candidates by how much likelier the model's answer is yes than no.

    A candidate's score is the margin log p(yes) − log p(no). LLM-TRSR (arXiv 2403.13325) takes the
    softmax over the two answers' logits instead; that is `p_yes(margin)`, the same order. The
    margin is kept because a softmax near 0 or 1 rounds different margins to the same number, and
    would make ties that the model did not mean.
    """

    traits = Traits(uses_llm=True, log_odds=True, reads_summary=True)

    def __init__(self, model: ScoringModel, writer: PromptWriter) -> None:
        super().__init__()
        self.model = model
        self.writer = writer

    def score(self, batch: QueryBatch) -> ScoreBatch:
        """[queries, columns] margins.

        Raises:
            PromptError: If a query's prompt cannot be made to fit (see `rank_what_fits`).
            ModelError: If the model fails, or gives something that is not a finite number.
        """
        prompts = [prompt for query in batch.queries() for prompt in self.writer.rank(query)]
        yes_no = self.model.score(prompts, self.writer.answers)
        due = len(batch.places.values)
        if yes_no.shape != (due, 2):
            raise ModelError(
                f"model {self.model.identity} was asked for {due} × 2 log-probabilities and gave "
                f"{' × '.join(map(str, yes_no.shape))}"
            )
        # Both may be −inf, whose difference is not a number: an error below, not a warning here.
        with np.errstate(invalid="ignore"):
            margins = yes_no[:, 0] - yes_no[:, 1]
        bad = np.flatnonzero(~np.isfinite(margins))
        if len(bad):
            at = int(bad[0])
            item = batch.item(int(batch.columns[batch.places.values[at]]))
            raise ModelError(
                f"query {batch.ids[batch.places.rows[at]]}: model {self.model.identity} gave "
                f"{margins[at]} as the score of candidate {item.id}; its weights or its "
                "number format are broken (try model.dtype=float32)"
            )
        return ScoreBatch(batch.scattered(margins))


class TunedLLMRanker(Ranker):
    """The yes/no ranker with the trained model.

    The model is opened when it is first asked. What the ranker learned lies in `adapter/`.
    """

    traits = Traits(uses_llm=True, needs_training=True, log_odds=True, reads_summary=True)

    @functools.cached_property
    def asked(self) -> PointwiseLLMRanker:
        """Asks the model."""
        compressed = self.traits.needs_compression
        model, writer = self.resources.model(self.traits.needs_training, compressed)
        return PointwiseLLMRanker(model, writer)

    def score(self, batch: QueryBatch) -> ScoreBatch:
        """[queries, columns] log p(yes) − log p(no); raises as `PointwiseLLMRanker.score`."""
        return self.asked.score(batch)


class ZeroShotLLMRanker(TunedLLMRanker):
    """The yes/no ranker with the model that training started from."""

    traits = Traits(uses_llm=True, log_odds=True, reads_summary=True)


class CompressedLLMRanker(TunedLLMRanker):
    """The yes/no ranker with the compressed form of the trained model, which lies in `compressed/`.

    OD-LLM (arXiv 2601.09306): see `trsr.models.hf.compression`.
    """

    traits = Traits(
        uses_llm=True,
        needs_training=True,
        needs_compression=True,
        log_odds=True,
        reads_summary=True,
    )


class ItemOnlyLLMRanker(TunedLLMRanker):
    """What the trained model makes of the candidates alone: each user is shown as on a first visit.

    A model whose answers hang on the item alone ranks as well without the user as with. The
    converse is weaker: training showed a history each time, so a part of what is lost here may be
    the unfamiliar prompt's. After the hypothesis-only baseline of textual entailment (Poliak et
    al., *SEM 2018), which is trained without the other part.

    A prompt then depends on its candidate alone, so that with the response cache the model is asked
    about each item once.
    """

    traits = Traits(uses_llm=True, needs_training=True, log_odds=True)

    def score(self, batch: QueryBatch) -> ScoreBatch:
        """[queries, columns] log p(yes) − log p(no); raises as `PointwiseLLMRanker.score`."""
        return super().score(batch.without_user())


def p_yes(margin: float) -> float:
    """The probability of yes against no at a margin: the softmax over the two answers."""
    # The exponent is never positive, so it cannot overflow.
    small = math.exp(-abs(margin))
    return 1 / (1 + small) if margin >= 0 else small / (1 + small)
