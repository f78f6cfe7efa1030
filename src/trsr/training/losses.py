"""The losses, one number a case: over the answer, the candidates, or a text."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from trsr.models.token_tree.tokens import Tokens, common
from trsr.models.token_tree.tree import (
    HEAD_ROWS,
    answer_logits,
    answer_states,
    log_normalizer,
    token_states,
)
from trsr.training.encode import EncodedCase

Loss = Callable[[Any, Sequence[EncodedCase], int], Tensor]
"""(network, cases, tokens of one forward pass) → the loss of each case, fp32, [cases]."""

StatesOf = Callable[..., Tensor]
"""As `answer_states`: the final hidden state at each sequence's last token."""


def answer_loss(network: Any, cases: Sequence[EncodedCase], batch_tokens: int) -> Tensor:
    """Minus the log-probability of the right answer, mean over the case's candidates."""
    pairs = [pair for case in cases for pair in zip(case.prompts, case.right, strict=True)]
    losses = -log_probs(network, pairs, batch_tokens)
    return torch.stack([part.mean() for part in torch.split(losses, _sizes(cases))])


def text_example_loss(network: Any, cases: Sequence[EncodedCase], batch_tokens: int) -> Tensor:
    """Minus the log-probability of a text after its prompt, mean over the text's tokens."""
    losses = answer_loss(network, cases, batch_tokens)
    return losses / torch.tensor([len(case.right[0]) for case in cases], device=losses.device)


def listwise_loss(network: Any, cases: Sequence[EncodedCase], batch_tokens: int) -> Tensor:
    """Cross-entropy between a case's relevant candidates and the softmax of all its scores.

    A candidate's score is the log-probability of yes minus that of no, as in ranking. Several
    relevant candidates share the target evenly (ListNet's top-one probabilities, Cao et al. 2007,
    with equal relevance).
    """
    losses = []
    parts = torch.split(scores(network, cases, batch_tokens), _sizes(cases))
    for case, margins in zip(cases, parts, strict=True):
        positive = torch.tensor(case.positive, device=margins.device)
        losses.append(-margins.log_softmax(-1)[positive].mean())
    return torch.stack(losses)


def distillation_loss(teacher: Mapping[str, Sequence[float]]) -> Loss:
    """Kullback-Leibler divergence of a case's softmax over candidates from the teacher's."""

    def loss(network: Any, cases: Sequence[EncodedCase], batch_tokens: int) -> Tensor:
        parts = torch.split(scores(network, cases, batch_tokens), _sizes(cases))
        losses = []
        for case, margins in zip(cases, parts, strict=True):
            wanted = torch.tensor(teacher[case.id], device=margins.device).log_softmax(-1)
            losses.append((wanted.exp() * (wanted - margins.log_softmax(-1))).sum())
        return torch.stack(losses)

    return loss


def text_loss(network: Any, cases: Sequence[EncodedCase], batch_tokens: int) -> Tensor:
    """Next-token cross-entropy over whole prompts and right answers, mean over a case's tokens.

    The paper's loss. Shared prefixes are computed once, and count once for each text.
    """
    texts = [case.texts for case in cases]
    every = [text for of_case in texts for text in of_case]
    states, places = token_states(network, [text[:-1] for text in every], batch_tokens=batch_tokens)
    paths = iter(places)
    counts = [
        Counter(pair for text in of_case for pair in zip(next(paths), text[1:], strict=True))
        for of_case in texts
    ]
    steps = sorted({pair for count in counts for pair in count})
    losses = next_token_losses(network, states, steps)
    at = {pair: place for place, pair in enumerate(steps)}
    found = []
    for count in counts:
        own = torch.tensor([at[pair] for pair in count], device=losses.device)
        times = losses.new_tensor(list(count.values()))
        found.append((losses.index_select(0, own) * times).sum() / count.total())
    return torch.stack(found)


LOSSES: Mapping[str, Loss] = {
    "answer": answer_loss,
    "listwise": listwise_loss,
    "text": text_loss,
}


def scores(
    network: Any,
    cases: Sequence[EncodedCase],
    batch_tokens: int,
    states_of: StatesOf = answer_states,
) -> Tensor:
    """The log-probability of yes minus that of no of every candidate, [candidates of all cases]."""
    yes: list[tuple[Tokens, Tokens]] = []
    no: list[tuple[Tokens, Tokens]] = []
    for case in cases:
        for prompt, (one, other) in zip(case.prompts, case.answers, strict=True):
            # What both answers begin with cancels in the difference.
            same = common(one, other)
            yes.append((prompt + one[:same], one[same:]))
            no.append((prompt + other[:same], other[same:]))
    # One token against one token at the same place: the softmax's denominator cancels too.
    cancels = all(len(answer) == 1 for _, answer in (*yes, *no))
    found = log_probs(
        network, [*yes, *no], batch_tokens, normalized=not cancels, states_of=states_of
    )
    return found[: len(yes)] - found[len(yes) :]


def log_probs(
    network: Any,
    pairs: Sequence[tuple[Tokens, Tokens]],
    batch_tokens: int,
    *,
    normalized: bool = True,
    states_of: StatesOf = answer_states,
) -> Tensor:
    """The log-probability of each answer after its prompt, summed over the answer's tokens.

    Args:
        network: A causal language model.
        pairs: (prompt, answer) in tokens.
        batch_tokens: About how many tokens one forward pass may hold.
        normalized: False leaves the softmax's denominator out: plain logits.
        states_of: Makes the passes: as `answer_states`.

    Returns:
        Shape (pairs), fp32, differentiable.
    """
    places: dict[Tokens, int] = {}
    owners, rows, tokens = [], [], []
    for owner, (prompt, answer) in enumerate(pairs):
        for at, token in enumerate(answer):
            owners.append(owner)
            rows.append(places.setdefault(prompt + answer[:at], len(places)))
            tokens.append(token)
    states = states_of(network, list(places), batch_tokens=batch_tokens)
    device = states.device
    at_rows = torch.tensor(rows, device=device)
    values = _token_logits(network, states.index_select(0, at_rows), tokens)
    if normalized:
        values = values - log_normalizer(network, states).index_select(0, at_rows)
    total = torch.zeros(len(pairs), device=device)
    return total.index_add(0, torch.tensor(owners, device=device), values)


def _token_logits(network: Any, states: Tensor, tokens: Sequence[int]) -> Tensor:
    """The logit of one token at each state, fp32, [n]."""
    vocabulary = sorted(set(tokens))
    column = {token: at for at, token in enumerate(vocabulary)}
    columns = torch.tensor([[column[token]] for token in tokens], device=states.device)
    return answer_logits(network, states, vocabulary).gather(1, columns)[:, 0]


def _sizes(cases: Sequence[EncodedCase]) -> list[int]:
    return [len(case.rests) for case in cases]


def next_token_losses(network: Any, states: Tensor, steps: Sequence[tuple[int, int]]) -> Tensor:
    """The loss of each (row of the states, token after it), fp32, [steps]; rows ascend."""

    def losses(part: Tensor, rows: Tensor, wanted: Sequence[int]) -> Tensor:
        normalizer = log_normalizer(network, part).index_select(0, rows)
        return normalizer - _token_logits(network, part.index_select(0, rows), wanted)

    # Logits over the vocabulary are made again on the way back: kept, they would be the largest
    # tensors of the run by far.
    parts = []
    for number, same in itertools.groupby(steps, key=lambda step: step[0] // HEAD_ROWS):
        first = number * HEAD_ROWS
        rows, wanted = zip(*same, strict=True)
        parts.append(
            checkpoint(
                losses,
                states[first : first + HEAD_ROWS],
                torch.tensor([row - first for row in rows], device=states.device),
                wanted,
                use_reentrant=False,
                preserve_rng_state=False,
            )
        )
    return torch.cat(parts)
