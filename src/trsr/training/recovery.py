"""The training after a compression: the smaller model follows the whole one (distillation).

The paper of OD-LLM (arXiv:2601.09306) does without; SVD-LLM (Wang et al., ICLR 2025) trains LoRA
on the two thin layers by next-token loss. We train the thin layers themselves, which takes no
further products, and follow the whole model on ranking prompts: what it gives a case's candidates,
and its final hidden state at every token, which says far more than a score does.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from trsr.models.hf.fused import fuse_layers
from trsr.models.hf.low_rank import ranks_of
from trsr.models.hf.model import TransformersModel
from trsr.models.settings import ModelSettings
from trsr.models.token_tree.tokens import Tokens, common
from trsr.models.token_tree.tree import token_states
from trsr.progress import Progress
from trsr.settings import derive_seed
from trsr.storage import files
from trsr.training.adapter import Adapter
from trsr.training.encode import EncodedCase, fingerprint
from trsr.training.fit import TrainResult
from trsr.training.losses import Loss, scores
from trsr.training.settings import TrainSettings
from trsr.training.start import open_trainable, run_training
from trsr.training.step import Schedule

CASES = 1
"""Cases a step: the states of one say enough, so that more steps are better than larger ones."""
RATE = 5e-5
"""Six times as much took a compressed SmolLM2 farther from the whole one in 100 steps."""
FACTORS = "factors.safetensors"
"""The trained factors, in the folder that `recover` writes."""
_PART = 25
"""Cases of one file of lessons: a stopped call goes on behind the last one."""

Lessons = Mapping[str, tuple[Tensor, Tensor]]
"""By case: scores of its candidates, [candidates]; states of its distinct tokens, [tokens, hidden],
in the order in which its sequences first hold them.
"""


def reached(steps: int) -> int:
    """How many cases so many steps reach, each once."""
    return steps * CASES


def lessons(
    model: TransformersModel, cases: Sequence[EncodedCase], folder: Path, progress: Progress
) -> Lessons:
    """What a model gives cases, kept in files of a folder.

    The folder is of this model and these cases alone; what lies there is not made again.
    """
    files.make_folder(folder)
    progress.begin(len(cases), "cases")
    for start in range(0, len(cases), _PART):
        file, part = folder / f"{start}.safetensors", cases[start : start + _PART]
        if not files.is_file(file):
            made: dict[str, Tensor] = {}
            for place, case in enumerate(part, start):
                with torch.no_grad():
                    (given,) = _given(model.network, [case], model.settings.batch_tokens)
                made |= {f"{place}.scores": given[0].cpu(), f"{place}.states": given[1].cpu()}
                progress.advance()
            with files.writing_path(file) as path:
                save_file(made, path)
        else:
            progress.advance(len(part))
    return _Stored(folder, {case.id: place for place, case in enumerate(cases)})


class _Stored(Mapping[str, tuple[Tensor, Tensor]]):
    """Lessons in their files, read one at a time: together they may be larger than the memory."""

    def __init__(self, folder: Path, places: Mapping[str, int]) -> None:
        self._folder, self._places = folder, places

    def __getitem__(self, case: str) -> tuple[Tensor, Tensor]:
        place = self._places[case]
        file = self._folder / f"{place // _PART * _PART}.safetensors"
        with safe_open(file, "pt") as stored:
            scores_, states = (stored.get_tensor(f"{place}.{one}") for one in ("scores", "states"))
        return scores_, states

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def following_loss(wanted: Lessons) -> Loss:
    """How far a model is from another one on cases.

    The Kullback-Leibler divergence of a case's softmax over candidates, and the squared error of
    the final hidden states as a share of their sum of squares, over all tokens of its prompts.
    """

    def loss(network: Any, cases: Sequence[EncodedCase], batch_tokens: int) -> Tensor:
        losses = []
        for case, (margins, states) in zip(
            cases, _given(network, cases, batch_tokens), strict=True
        ):
            other, target = (one.to(margins.device).float() for one in wanted[case.id])
            shares = other.log_softmax(-1)
            divergence = (shares.exp() * (shares - margins.log_softmax(-1))).sum()
            error = (states.float() - target).square().sum() / target.square().sum()
            losses.append(divergence + error)
        return torch.stack(losses)

    return loss


def _given(
    network: Any, cases: Sequence[EncodedCase], batch_tokens: int
) -> list[tuple[Tensor, Tensor]]:
    """Of each case the scores of its candidates, and the states of its distinct tokens."""
    paths: dict[Tokens, list[int]] = {}
    every = torch.empty(0)

    def states_of(network: Any, sequences: Sequence[Tokens], *, batch_tokens: int) -> Tensor:
        nonlocal every
        every, places = token_states(network, sequences, batch_tokens=batch_tokens)
        paths.update(zip(sequences, places, strict=True))
        return every[[path[-1] for path in places]]

    margins = scores(network, cases, batch_tokens, states_of)
    found = []
    sizes = [len(case.rests) for case in cases]
    for case, part in zip(cases, torch.split(margins, sizes), strict=True):
        pairs = zip(case.prompts, case.answers, strict=True)
        ends = [prompt + yes[: common(yes, no)] for prompt, (yes, no) in pairs]
        own = dict.fromkeys(place for end in ends for place in paths[end])
        found.append((part, every[list(own)]))
    return found


def recover(
    cases: Sequence[EncodedCase],
    wanted: Lessons,
    *,
    model: ModelSettings,
    steps: int,
    seed: int,
    out: Path,
    state: Path,
    progress: Progress,
) -> TrainResult:
    """Trains a compressed model's factors so that it follows the whole model.

    Beside the model that takes 16 bytes for each number of the factors: the number itself in fp32,
    its gradient, and AdamW's two moments. The factors are written as `FACTORS`, under their names
    in the model, in fp32.

    Raises:
        ModelError: If a loss is not finite.
        StaleRunError: If the state is of other settings.
        StoreError: If the state cannot be read or written.
    """
    opened = open_trainable(model, "")
    adapter = Factors(opened.network)
    settings = TrainSettings(
        epochs=-(-steps * CASES // len(cases)),
        learning_rate=RATE,
        warmup_steps=min(10, steps // 10),
        cases_per_step=CASES,
        checkpoint_steps=_PART * 2,  # a state is as large as the model
    )
    seed = derive_seed(seed, "recover")
    schedule = Schedule(len(cases), settings, seed)
    schedule.steps = steps
    return run_training(
        opened,
        cases,
        settings,
        name=model.name,
        identity={"cases": fingerprint(cases), "steps": steps, **settings.meaning()},
        seed=seed,
        out=out,
        state=state,
        progress=progress,
        loss=following_loss(wanted),
        schedule=schedule,
        unit="recovery steps",
        adapter=adapter,
    )


class Factors(Adapter):
    """A compressed model's factors, trained themselves; each is rounded where it is multiplied."""

    def __init__(self, network: Any) -> None:
        fuse_layers(network)
        self._layers = {
            f"{name}.{side}": network.get_submodule(name)[side]
            for name in ranks_of(network)
            for side in (0, 1)
        }
        for layer in self._layers.values():
            layer.weight = nn.Parameter(layer.weight.detach().float())
            layer.forward = functools.partial(_rounded, layer)

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """The factors by name."""
        return {f"{name}.weight": layer.weight for name, layer in self._layers.items()}

    def weights(self) -> dict[str, Tensor]:
        """A copy of the factors, on the CPU."""
        return {name: one.detach().cpu().clone() for name, one in self.parameters.items()}

    def restore(self, weights: Mapping[str, Tensor]) -> None:
        """Puts back what `weights()` gave."""
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(weights[name])

    def write(self, folder: Path, weights: Mapping[str, Tensor]) -> None:
        """Writes `factors.safetensors`."""
        files.make_folder(folder)
        save_file(dict(weights), folder / FACTORS, {"format": "pt"})


def put_factors(network: Any, folder: Path) -> None:
    """Puts the factors that `recover` wrote into the compressed model that it trained."""
    with torch.no_grad():
        for name, factor in load_file(folder / FACTORS).items():
            network.get_parameter(name).copy_(factor)


def _rounded(layer: nn.Linear, states: Tensor) -> Tensor:
    return nn.functional.linear(states, layer.weight.to(states.dtype), layer.bias)
