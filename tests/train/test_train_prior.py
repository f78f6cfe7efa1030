"""The prior in training: what it adds to each loss, and that nothing is learned of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stopping import StopHereError, Stopping
from test_train_losses import ANSWERS, adapted, encoded, plain_log_prob
from test_train_resume import options, outcome
from tiny import tiny_network
from torch import Tensor
from train_toy import toy_cases, toy_train

from trsr.errors import ConfigError, DataError, StaleRunError
from trsr.train import losses
from trsr.train.encode import EncodedCase, fingerprint
from trsr.train.losses import LOSSES
from trsr.train.settings import PRIOR_LOSSES, TrainSettings

PRIORS = ((0.7, -1.2, 0.0, 2.5), (-3.0, 0.4, 1.1), (0.25, -0.25))


def with_prior(case: EncodedCase, prior: tuple[float, ...]) -> EncodedCase:
    return EncodedCase.of(case.id, case.prompts, case.answers, case.positive, prior)


def cases(words: str) -> list[EncodedCase]:
    shapes = ((0, 4, 1), (1, 3, 2), (2, 2, 1))
    return [
        with_prior(encoded(seed, n, k, ANSWERS[words]), prior)
        for (seed, n, k), prior in zip(shapes, PRIORS, strict=True)
    ]


def plain_loss(name: str, network: Any, case: EncodedCase) -> Tensor:
    """Written without the room, from each answer's probability alone."""
    yes, no = (
        torch.stack(
            [
                plain_log_prob(network, prompt, answers[at])
                for prompt, answers in zip(case.prompts, case.answers, strict=True)
            ]
        )
        for at in (0, 1)
    )
    prior, positive = torch.tensor(case.prior), torch.tensor(case.positive)
    if name == "listwise":
        return -(yes - no + prior).log_softmax(0)[positive].mean()
    # all that is not yes keeps its weight, yes gets exp(prior) times its own
    total = (1 - yes.exp()) + yes.exp() * prior.exp()
    chance = torch.where(positive, yes.exp() * prior.exp(), no.exp()) / total
    return -chance.log().mean()


@pytest.mark.parametrize("words", ["one token each", "several tokens"])
@pytest.mark.parametrize("name", sorted(PRIOR_LOSSES))
def test_loss_and_gradient_with_a_prior_are_those_of_computing_each_pair_alone(
    name: str, words: str
) -> None:
    torch.manual_seed(1)
    network, adapter = adapted()
    parameters = list(adapter.parameters.values())
    found = LOSSES[name](network, cases(words), 4096)
    gradients = torch.autograd.grad(found.sum(), parameters)
    plain = torch.stack([plain_loss(name, network, case) for case in cases(words)])
    expected = torch.autograd.grad(plain.sum(), parameters)
    torch.testing.assert_close(found, plain, rtol=1e-4, atol=1e-5)
    for one, wanted in zip(gradients, expected, strict=True):
        torch.testing.assert_close(one, wanted, rtol=1e-3, atol=1e-5)
    assert max(float(gradient.abs().max()) for gradient in gradients) > 1e-3


def test_listwise_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    margins = torch.tensor([0.5, -0.5, 1.0], requires_grad=True)
    monkeypatch.setattr(losses, "scores", lambda network, cases, batch_tokens: margins)
    case = EncodedCase.of(
        "c", [(1,), (2,), (3,)], [((7,), (8,))] * 3, [False, True, False], prior=(1.0, 2.0, -1.0)
    )
    (found,) = losses.listwise_loss(None, [case], 4096)
    sums = torch.tensor([1.5, 1.5, 0.0]).exp()
    chances = sums / sums.sum()
    assert found.item() == pytest.approx(-chances[1].log().item())
    # the gradient of a softmax's cross-entropy: chance − target, by the margins alone
    (gradient,) = torch.autograd.grad(found, margins)
    torch.testing.assert_close(gradient, chances - torch.tensor([0.0, 1.0, 0.0]))


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(-30, 30), min_size=3, max_size=3), st.floats(-60, 0))
def test_the_answer_loss_stays_finite(prior: list[float], log_yes: float) -> None:
    case = EncodedCase.of(
        "c",
        [(1,), (2,), (3,)],
        [((7,), (8,))] * 3,
        [False, True, False],
        prior=prior,
    )
    found = torch.tensor([log_yes, -60.0, log_yes, 0.0, log_yes, 1e-6]).requires_grad_()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(losses, "log_probs", lambda network, pairs, batch_tokens: found)
        (loss,) = losses.answer_loss(None, [case], 4096)
    (gradient,) = torch.autograd.grad(loss, found)
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("words", ANSWERS)
@pytest.mark.parametrize("name", sorted(PRIOR_LOSSES))
def test_a_prior_of_nothing_changes_no_bit_of_the_loss(name: str, words: str) -> None:
    network = tiny_network()
    bare = encoded(0, 4, 1, ANSWERS[words])
    with torch.no_grad():
        one = LOSSES[name](network, [bare], 4096)
        other = LOSSES[name](network, [with_prior(bare, (0.0,) * 4)], 4096)
    if name == "listwise" or words == "one token each":
        assert torch.equal(one, other)
    torch.testing.assert_close(one, other)


def of(weight: float) -> dict[str, tuple[float, ...]]:
    """A prior of the toy cases' three candidates."""
    return {case.query.id: (weight, -weight, 0.5 * weight) for case in toy_cases()}


def test_a_prior_of_nothing_trains_the_same_adapter_bit_for_bit(
    tiny_model: Path, tmp_path: Path
) -> None:
    toy_train(tiny_model, tmp_path / "none")
    toy_train(tiny_model, tmp_path / "zero", prior=of(0.0))
    toy_train(tiny_model, tmp_path / "some", prior=of(1.0))
    assert outcome(tmp_path / "none") == outcome(tmp_path / "zero")
    assert outcome(tmp_path / "none") != outcome(tmp_path / "some")


def test_a_stopped_run_with_a_prior_ends_bit_for_bit_like_an_unbroken_one(
    tiny_model: Path, tmp_path: Path
) -> None:
    told = options(prior=of(1.5))
    toy_train(tiny_model, tmp_path / "unbroken", **told)
    with pytest.raises(StopHereError):
        toy_train(tiny_model, tmp_path / "stopped", progress=Stopping(3), **told)
    with pytest.raises(StaleRunError, match="cases: "):
        toy_train(tiny_model, tmp_path / "stopped", **(told | {"prior": of(1.0)}))
    toy_train(tiny_model, tmp_path / "stopped", **told)
    assert outcome(tmp_path / "stopped") == outcome(tmp_path / "unbroken")


def test_a_state_made_before_there_were_priors_is_gone_on_with(
    tiny_model: Path, tmp_path: Path
) -> None:
    with pytest.raises(StopHereError):
        toy_train(tiny_model, tmp_path, progress=Stopping(2), **options())
    (state,) = tmp_path.glob("state/step-*/state.json")
    identity = json.loads(state.read_text())["identity"]
    assert not [key for key in identity if "prior" in key]
    case = encoded(0, 3, 1, ANSWERS["one token each"])
    assert fingerprint([case]) == "c18947992bc199c8"
    assert fingerprint([with_prior(case, (0.0, 0.0, 0.0))]) != "c18947992bc199c8"


def test_the_digest_names_a_prior_only_where_there_is_one() -> None:
    every = set(TrainSettings.model_fields) - {"checkpoint_steps", "upper_layers"}
    priors = {"prior", "prior_weight", "prior_folds"}
    assert set(TrainSettings().meaning()) == every - priors
    assert set(TrainSettings(prior_weight=2.0).meaning()) == every - priors
    assert set(TrainSettings(prior="popular").meaning()) == every
    assert set(TrainSettings(upper_layers=4).meaning()) == every - priors | {"upper_layers"}


def test_a_loss_without_a_place_for_a_prior_refuses_it(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="text has no place for a prior; set it to answer or lis"):
        toy_train(tiny_model, tmp_path, prior=of(1.0), loss="text")
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("wrong", [(), (1.0,), (1.0, float("nan"), 0.0)])
def test_a_prior_that_does_not_fit_a_case_is_refused(
    wrong: tuple[float, ...], tiny_model: Path, tmp_path: Path
) -> None:
    given_prior = of(1.0)
    last = next(reversed(given_prior))
    given_prior[last] = wrong
    with pytest.raises(DataError, match=f"case {last}: the prior must give a finite number"):
        toy_train(tiny_model, tmp_path, prior=given_prior)
