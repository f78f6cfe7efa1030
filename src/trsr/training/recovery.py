"""The training after a compression: the smaller model follows the whole one (distillation).

The paper of OD-LLM (arXiv:2601.09306) does without; SVD-LLM (Wang et al., ICLR 2025) trains LoRA
on the two thin layers, as here, by next-token loss. We follow the whole model on ranking prompts:
what it gives a case's candidates, and its final hidden state at every token, which says far more
than a score does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from trsr.models.hf.low_rank import ranks_of
from trsr.models.hf.model import TransformersModel
from trsr.models.settings import ModelSettings
from trsr.models.token_tree.tokens import Tokens, common
from trsr.models.token_tree.tree import token_states
from trsr.progress import Progress
from trsr.settings import derive_seed
from trsr.storage import files
from trsr.training.encode import EncodedCase, fingerprint
from trsr.training.fit import TrainResult
from trsr.training.losses import Loss, scores
from trsr.training.settings import TrainSettings
from trsr.training.start import open_trainable, run_training
from trsr.training.step import Schedule

CASES = 1
"""Cases a step: the states of one say enough, so that more steps are better than larger ones."""
RATE = 1e-3
RANK = 16
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

    Args:
        model: The whole model.
        cases: Whose prompts it reads.
        folder: Of this model and these cases alone; what lies there is not made again.
        progress: Advances with each case.
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
    """Trains LoRA on a compressed model's factors so that it follows the whole model.

    Args:
        cases: What to train on.
        wanted: What the whole model gives them.
        model: The compressed model.
        steps: Optimizer steps.
        seed: The run's seed.
        out: A folder for the adapter in PEFT's format.
        state: A folder for what a stopped call needs to go on.
        progress: Advances with each step.

    Raises:
        ModelError: If a loss is not finite.
        StaleRunError: If the state is of other settings.
        StoreError: If the state cannot be read or written.
    """
    opened = open_trainable(model, "")
    names = sorted({name.rpartition(".")[2] for name in ranks_of(opened.network)})
    settings = TrainSettings(
        epochs=-(-steps * CASES // len(cases)),
        learning_rate=RATE,
        warmup_steps=min(10, steps // 10),
        cases_per_step=CASES,
        rank=RANK,
        alpha=2 * RANK,
        dropout=0.0,
        targets=tuple(f"{name}.{side}" for name in names for side in (0, 1)),
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
    )
