"""What a training run needs to resume; a kill at any moment leaves a usable state."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from trsr.errors import StaleRunError, StoreError
from trsr.storage import files

Weights = Mapping[str, Tensor]


@dataclass(slots=True)
class Counts:
    """The numbers that a resumed run continues.

    Attributes:
        cases: Cases trained on.
        tokens: Tokens of all sequences.
        distinct_tokens: Tokens computed.
        seconds: Time spent in steps and validations.
        step_seconds: Time spent in steps.
        best_step: The step with the best validation; 0 before the first.
        best_score: Its score.
        worse: Validations since then.
    """

    cases: int = 0
    tokens: int = 0
    distinct_tokens: int = 0
    seconds: float = 0.0
    step_seconds: float = 0.0
    best_step: int = 0
    best_score: float | None = None
    worse: int = 0


@dataclass(frozen=True, slots=True)
class State:
    """A run after a step.

    Attributes:
        step: The last step made.
        adapter: The adapter's weights.
        moments: AdamW's moments, `<parameter>/<moment>` → tensor.
        best: The best adapter's weights, empty before the first validation.
        counts: The numbers to continue.
    """

    step: int
    adapter: Weights
    moments: Weights
    best: Weights = field(default_factory=dict)
    counts: Counts = field(default_factory=Counts)


def save(folder: Path, state: State, identity: Mapping[str, Any]) -> None:
    """Writes a state as `<folder>/step-<n>`, then removes the older ones.

    The new state is written beside the old one, brought to the disk and renamed, so `load` always
    finds the old state or the new one. An existing state of this step stays.

    Raises:
        StoreError: If it cannot be written, such as on a full disk; the older state stays.
    """
    final = folder / f"step-{state.step:08d}"
    if not files.exists(final):
        try:
            _write(folder, final, state, identity)
        except (OSError, SafetensorError) as error:
            raise StoreError(
                f"the training state {final} cannot be written ({error}); make room or choose "
                "another folder, then run the same command again: it resumes from the last state"
            ) from error
    for old in files.listed(folder, "step-*"):
        if old.name < final.name:
            # A name that `load` does not know first: a half-removed state must not be read.
            gone = folder / f".old-{old.name}"
            files.move(old, gone)
            files.remove(gone)


def load(folder: Path, identity: Mapping[str, Any]) -> State | None:
    """The latest state in a folder; None where there is none.

    Raises:
        StaleRunError: If it was made with another identity; the message names what differs.
        StoreError: If it cannot be read.
    """
    for rest in (*files.listed(folder, ".new-*"), *files.listed(folder, ".old-*")):
        files.remove(rest)
    found = files.listed(folder, "step-*")
    if not found:
        return None
    latest = found[-1]
    try:
        facts = files.read_json(latest / "state.json")
        _check(latest, facts["identity"], identity)
        best = latest / "best.safetensors"
        return State(
            facts["step"],
            load_file(latest / "adapter.safetensors"),
            load_file(latest / "moments.safetensors"),
            load_file(best) if files.exists(best) else {},
            Counts(**facts["counts"]),
        )
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"the training state {latest} cannot be read ({error}); remove it to train anew"
        ) from error


def _check(folder: Path, made: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    # Through JSON, so that tuples and lists are alike.
    asked = json.loads(json.dumps(asked))
    differ = sorted(key for key in made.keys() | asked.keys() if made.get(key) != asked.get(key))
    if differ:
        lines = "\n".join(f"  {key}: {made.get(key)}, now {asked.get(key)}" for key in differ)
        raise StaleRunError(
            f"the training state {folder} was made with other settings:\n{lines}\n"
            "remove it to train anew, or go back to those settings to resume"
        )


def _write(folder: Path, final: Path, state: State, identity: Mapping[str, Any]) -> None:
    fresh = folder / f".new-{final.name}"
    files.empty_folder(fresh)
    tensors = {"adapter": state.adapter, "moments": state.moments, "best": state.best}
    for name, weights in tensors.items():
        if weights:
            save_file(dict(weights), fresh / f"{name}.safetensors")
    counts = {name: getattr(state.counts, name) for name in Counts.__slots__}
    facts = {"step": state.step, "identity": identity, "counts": counts}
    files.write_json(fresh / "state.json", facts)
    for path in (*files.listed(fresh), fresh):
        files.sync(path)
    files.move(fresh, final)
    files.sync(folder)
