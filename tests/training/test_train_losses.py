from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_network
from torch import Tensor

from trsr.training.adapter import Adapter
from trsr.training.encode import EncodedCase
from trsr.training.losses import LOSSES
from trsr.training.settings import TrainSettings

ANSWERS = {
    "one token each": ((5,), (9,)),
    "several tokens": ((5, 7, 11), (9, 6)),
    "the same start": ((5, 7), (5, 9, 4)),
    "one begins the other": ((5,), (5, 9)),
}


def encoded(seed: int, candidates: int, relevant: int, answers: Any) -> EncodedCase:
    draw = random.Random(seed)

    def tokens(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw.randrange(3, 300) for _ in range(draw.randint(low, high)))

    start = tokens(20, 40)
    prompts = [start + tokens(3, 12) for _ in range(candidates)]
    positive = [place < relevant for place in range(candidates)]
    return EncodedCase.of(f"case {seed}", prompts, [answers] * candidates, positive)


def adapted(dropout: float = 0.0) -> tuple[Any, Adapter]:
    network = tiny_network()
    adapter = Adapter(network, TrainSettings(dropout=dropout), "tiny", 0)
    for name, parameter in adapter.parameters.items():
        if "lora_B" in name:  # zero at first, which would hide half of the gradient
            torch.nn.init.normal_(parameter, std=0.1)
    return network, adapter


def plain_log_prob(network: Any, prompt: tuple[int, ...], answer: tuple[int, ...]) -> Tensor:
    """One plain forward pass a pair."""
    logits = network(torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
    places = range(len(prompt) - 1, len(prompt) + len(answer) - 1)
    return sum(
        (logits[at, token] for at, token in zip(places, answer, strict=True)), torch.zeros(())
    )


def plain_loss(name: str, network: Any, case: EncodedCase) -> Tensor:
    rows = list(zip(case.prompts, case.answers, case.positive, strict=True))
    if name == "answer":
        chosen = [plain_log_prob(network, p, yes if good else no) for p, (yes, no), good in rows]
        return -torch.stack(chosen).mean()
    if name == "listwise":
        scores = torch.stack(
            [
                plain_log_prob(network, p, yes) - plain_log_prob(network, p, no)
                for p, (yes, no), _ in rows
            ]
        )
        good = [scores[place] - scores.logsumexp(0) for place, row in enumerate(rows) if row[2]]
        return -torch.stack(good).mean()
    texts = [prompt + (yes if good else no) for prompt, (yes, no), good in rows]
    total = sum(plain_log_prob(network, text[:1], text[1:]) for text in texts)
    return -total / sum(len(text) - 1 for text in texts)


@pytest.mark.parametrize("words", ANSWERS)
@pytest.mark.parametrize("name", LOSSES)
def test_loss_and_gradient_are_those_of_computing_each_pair_alone(name: str, words: str):
    torch.manual_seed(1)
    network, adapter = adapted()
    cases = [
        encoded(seed, n, k, ANSWERS[words]) for seed, n, k in ((0, 4, 1), (1, 3, 2), (2, 2, 1))
    ]
    parameters = list(adapter.parameters.values())
    losses = LOSSES[name](network, cases, 4096)
    gradients = torch.autograd.grad(losses.sum(), parameters)
    plain = torch.stack([plain_loss(name, network, case) for case in cases])
    expected = torch.autograd.grad(plain.sum(), parameters)
    torch.testing.assert_close(losses, plain, rtol=1e-4, atol=1e-5)
    for found, wanted in zip(gradients, expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-5)
    assert max(float(gradient.abs().max()) for gradient in gradients) > 1e-3


@pytest.mark.parametrize("name", LOSSES)
def test_a_shared_prefix_is_computed_once(name: str):
    case = encoded(0, 5, 1, ANSWERS["one token each"])
    network, seen = tiny_network(), list[int]()
    network.model.embed_tokens.register_forward_hook(
        lambda _, inputs, __: seen.append(inputs[0].numel())
    )
    with torch.no_grad():
        LOSSES[name](network, [case], 4096)
    assert sum(seen) == case.distinct_tokens - len(case.rests)  # no answer is read, only judged


@pytest.mark.parametrize("name", LOSSES)
@settings(max_examples=10, deadline=None)
@given(order=st.permutations(range(4)), words=st.sampled_from(sorted(ANSWERS)))
def test_the_order_of_candidates_changes_nothing(name: str, order: list[int], words: str):
    network = tiny_network()
    case = encoded(3, 4, 2, ANSWERS[words])
    prompts = case.prompts
    moved = EncodedCase.of(
        case.id,
        [prompts[place] for place in order],
        [case.answers[place] for place in order],
        [case.positive[place] for place in order],
    )
    with torch.no_grad():
        one, other = LOSSES[name](network, [case], 4096), LOSSES[name](network, [moved], 4096)
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_listwise_is_the_logarithm_of_the_number_of_candidates_when_all_score_alike():
    case = EncodedCase.of("c", [(4, 5, 6)] * 5, [((7,), (8,))] * 5, [True] + [False] * 4)
    with torch.no_grad():
        found = LOSSES["listwise"](tiny_network(), [case], 4096)
    assert float(found) == pytest.approx(1.6094379, abs=1e-5)


def test_an_encoded_case_keeps_its_prompts_and_counts_shared_prefixes():
    prompts = [(1, 2, 3, 4), (1, 2, 9), (1, 2, 3, 5, 6)]
    case = EncodedCase.of("c", prompts, [((7,), (8,))] * 3, [False, True, False])
    assert case.prompts == prompts
    assert case.right == [(8,), (7,), (8,)]
    assert case.tokens == 15
    assert case.distinct_tokens == 10  # 1 2, 3, 4 8, 9 7, 5 6 8
