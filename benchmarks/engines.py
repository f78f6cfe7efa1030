"""What can score prompts given as tokens; a further engine is one more line in the table."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.tokens import padded_states
from trsr.models.hf.model import TransformersModel
from trsr.models.openvino.compiled import CompiledPass
from trsr.models.token_tree.tokens import Tokens
from trsr.models.token_tree.tree import PackedPass, answer_logits, answer_states

Calls = Sequence[Sequence[Tokens]]
"""Prompts in tokens, in the groups that go to the model in one call."""

Scores = npt.NDArray[np.float64]
"""[prompts, answers], in the calls' order; only differences along a row mean anything."""

Engine = Callable[[Calls, Sequence[int]], Scores]
"""(calls, the answers' tokens) → how likely each answer's token comes next."""

REFERENCE = "pairwise"
ROWS = 20
"""Prompts that the pairwise way computes side by side."""


def open_pairwise(model: TransformersModel) -> Engine:
    """Each prompt computed whole, sorted by length over all calls, `ROWS` side by side."""

    def score(calls: Calls, answers: Sequence[int]) -> Scores:
        with torch.no_grad():
            every = [tokens for call in calls for tokens in call]
            states = padded_states(model.network, every, ROWS)
            return answer_logits(model.network, states, answers).double().cpu().numpy()

    return score


def open_tree(model: TransformersModel) -> Engine:
    """What a call's prompts begin alike computed once, as trsr ranks."""
    return _tree(model, None)


def open_openvino(model: TransformersModel) -> Engine:
    """The same tree, its passes compiled (`model.scorer = openvino`)."""
    return _tree(model, CompiledPass(model.network))


def _tree(model: TransformersModel, packed: PackedPass | None) -> Engine:
    def score(calls: Calls, answers: Sequence[int]) -> Scores:
        budget = model.settings.batch_tokens
        with torch.no_grad():
            states = (
                answer_states(model.network, call, batch_tokens=budget, packed=packed)
                for call in calls
            )
            found = [answer_logits(model.network, one, answers) for one in states]
            return torch.cat(found).double().cpu().numpy()

    return score


ENGINES: dict[str, Callable[[TransformersModel], Engine]] = {
    REFERENCE: open_pairwise,
    "tree": open_tree,
    "openvino": open_openvino,
}
"""Each opener raises `ModelError` or `ConfigError` where its engine cannot run."""
