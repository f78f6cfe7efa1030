"""AdamW over the adapter's weights, with moments that can be kept and put back."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from trsr.training.settings import TrainSettings

BETAS = 0.9, 0.95
"""AdamW's decay of the two moments (the paper's)."""
MAX_NORM = 1.0
"""The gradient is clipped to this norm."""


class Optimizer:
    """AdamW (Loshchilov and Hutter 2019) with a clipped gradient.

    Args:
        parameters: What is trained, by name.
        settings: The learning rate and the weight decay.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], settings: TrainSettings) -> None:
        self._parameters = dict(parameters)
        self._adamw = torch.optim.AdamW(
            self._parameters.values(),
            lr=settings.learning_rate,
            betas=BETAS,
            weight_decay=settings.weight_decay,
        )

    def gradient_norm(self) -> float:
        """The gradient's norm before clipping; the gradient is clipped."""
        return float(nn.utils.clip_grad_norm_(self._parameters.values(), MAX_NORM))

    def step(self, rate: float) -> None:
        """Moves the weights at this learning rate and forgets the gradient."""
        for group in self._adamw.param_groups:
            group["lr"] = rate
        self._adamw.step()
        self._adamw.zero_grad(set_to_none=True)

    def moments(self) -> dict[str, Tensor]:
        """A copy of the moments on the CPU, `<parameter>/<moment>` → tensor."""
        return {
            f"{name}/{moment}": tensor.detach().cpu().clone()
            for name, parameter in self._parameters.items()
            for moment, tensor in self._adamw.state[parameter].items()
        }

    def restore(self, moments: Mapping[str, Tensor]) -> None:
        """Puts back what `moments()` gave."""
        for key, tensor in moments.items():
            name, _, moment = key.rpartition("/")
            parameter = self._parameters[name]
            # AdamW counts its steps on the CPU whatever the parameter's device.
            place = tensor.device if moment == "step" else parameter.device
            self._adamw.state[parameter][moment] = tensor.to(place)
