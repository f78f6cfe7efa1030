"""A rotated checkpoint says what the plain one does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import tiny_network

from trsr.llm.turned import rotation, turned

pytestmark = pytest.mark.usefixtures("one_thread")


def with_gains(tied: bool) -> Any:
    """A tiny Llama whose norms do something, and one of whose channels is far larger."""
    network = tiny_network(tied=tied).double()  # what is left is the rotation's own rounding
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if weight.ndim == 1:
                weight.copy_(torch.rand(weight.shape, generator=rng) + 0.5)
            if name.endswith("down_proj.weight"):
                weight[3] *= 40
    return network


@pytest.mark.parametrize("tied", [True, False])
def test_the_model_says_the_same(tied: bool) -> None:
    network = with_gains(tied)
    tensors = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    assert ("lm_head.weight" in tensors) or tied
    other = tiny_network(tied=False, seed=5).double()
    made = dict(turned(lambda: iter(tensors.items()), 32, tied=tied))
    other.load_state_dict({name: torch.tensor(tensor) for name, tensor in made.items()})
    ids = torch.randint(3, 300, (2, 40), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        states = [one.get_decoder()(ids).last_hidden_state for one in (network, other)]
        logits = [one(ids).logits for one in (network, other)]
    torch.testing.assert_close(logits[1], logits[0], atol=1e-3, rtol=0)
    assert not torch.allclose(states[1], states[0], atol=0.1)  # it did turn


def test_no_channel_stays_large() -> None:
    """What the rotation is for: rounding by the largest number of a token costs less."""
    network = with_gains(True)
    ids = torch.randint(3, 300, (1, 40), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        before = network.get_decoder()(ids, output_hidden_states=True).hidden_states[-2][0]
    peaks = [
        (one.abs().amax(-1) / one.norm(dim=-1)).mean()
        for one in (before, before @ torch.tensor(rotation(32)).double())
    ]
    assert peaks[1] < 0.75 * peaks[0]
