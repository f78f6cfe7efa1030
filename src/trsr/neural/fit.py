"""Trains a network on item sequences, and stops when it no longer gets better."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.checkpoint import checkpoint

from trsr.errors import ModelError
from trsr.neural.networks import NETWORKS, Network
from trsr.neural.settings import NetworkSettings
from trsr.neural.table import Floats, ItemTable, TextUse
from trsr.neural.windows import PAD, Ints, batches, padded, windows
from trsr.progress import Progress, Silent
from trsr.settings import derive_seed

_log = logging.getLogger(__name__)

_LOGITS = 2**25
"""Logits kept at one time; beyond it they are computed again in the backward pass."""
_CLIP = 5.0
_VALIDATED = 256  # histories scored together


@dataclass(frozen=True, slots=True)
class Held:
    """A history and what came after it; neither is trained on.

    Attributes:
        history: [n] item numbers, oldest first, at least one.
        relevant: Item numbers of the answer, at least one.
    """

    history: Ints
    relevant: Ints


@dataclass(frozen=True, slots=True)
class Fitted:
    """A trained network.

    Attributes:
        network: With the weights of the best pass, ready to score.
        passes: How many passes over the sequences made those weights.
        score: The validation's mean NDCG@10 then; without validation, minus the training loss.
    """

    network: Network
    passes: int
    score: float


def fit(
    kind: str,
    sequences: Sequence[Ints],
    items: int,
    held: Sequence[Held],
    settings: NetworkSettings,
    *,
    seed: int,
    text: TextUse = "none",
    texts: Floats | None = None,
    progress: Progress | None = None,
) -> Fitted:
    """Makes a network and trains it; the weights of the best validation are kept.

    With `settings.average_decay` those are a moving average: after each pass this share of the
    average and the rest of the new weights.

    The loss is the cross-entropy over all items (no sampling). After each pass NDCG@10 over all
    items is taken on `held`; where there is none, the training loss decides. The same arguments
    give the same weights on a CPU. A run that is stopped begins anew.

    Args:
        kind: A name in `NETWORKS`.
        sequences: Each user's item numbers, oldest first; one at least holds two items.
        items: How many items there are.
        held: What validation asks for.
        settings: The network's size, and the training.
        seed: Every draw follows from it.
        text: What the items' texts are used for; see `ItemTable`.
        texts: [items, any] embeddings of the texts.
        progress: Told about each pass.

    Raises:
        ModelError: If the loss is not finite.
    """
    device = _device(settings.device)
    progress = progress or Silent()
    progress.begin(None, "passes")
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(derive_seed(seed, "weights"))
        table = ItemTable(items, settings.hidden, text, texts)
        network = NETWORKS[kind](table, settings).to(device)
        best, passes, score = _weights(network), 0, -math.inf
        optimizer = _optimizer(network, settings)
        average = _average(network, settings.average_decay)
        kept = cast("Network", average.module) if average else network
        for epoch in range(1, settings.max_epochs + 1):
            draws = derive_seed(seed, f"{epoch}")
            loss = _pass(network, optimizer, sequences, settings, draws)
            if average:
                average.update_parameters(network)
            found = ndcg(kept, held) if held else -loss
            _log.info("%s: pass %d, loss %.4f, validation %.4f", kind, epoch, loss, found)
            progress.advance(1, f"{kind} {found:.4f}")
            if found > score:
                best, passes, score = _weights(kept), epoch, found
            if epoch - passes >= settings.patience:
                break
        network.load_state_dict(best)
    return Fitted(network.eval(), passes, score)


def ndcg(network: Network, held: Sequence[Held], at: int = 10) -> float:
    """The mean NDCG over the items that are not of the history; a tie counts as the worse rank.

    That is what candidates are: items that the user has not met. An answer stays one in any case.
    """
    total = 0.0
    for start in range(0, len(held), _VALIDATED):
        part = held[start : start + _VALIDATED]
        scores = network.log_probabilities([one.history for one in part])
        for one, row in zip(part, scores, strict=True):
            wanted = row[one.relevant].copy()
            row[one.history] = -np.inf
            row[one.relevant] = wanted
            ranks = (row[None] >= wanted[:, None]).sum(axis=1)
            ideal = np.arange(1, min(at, len(one.relevant)) + 1)
            total += _gain(ranks[ranks <= at]) / _gain(ideal)
    return total / len(held)


def _gain(ranks: Ints) -> float:
    return float((1 / np.log2(1 + ranks)).sum())


def cross_entropy(states: Tensor, table: Tensor, targets: Tensor, most: int = _LOGITS) -> Tensor:
    """The mean cross-entropy over all items.

    Args:
        states: [n, hidden].
        table: [items, hidden].
        targets: [n] item numbers.
        most: Logits kept at one time: bounds the memory, changes nothing else.
    """
    rows = max(1, most // len(table))
    if len(states) <= rows:
        return functional.cross_entropy(states @ table.T, targets)
    parts = [
        checkpoint(_summed, one, table, two, use_reentrant=False)
        for one, two in zip(torch.split(states, rows), torch.split(targets, rows), strict=True)
    ]
    return torch.stack(parts).sum() / len(states)


def _summed(states: Tensor, table: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(states @ table.T, targets, reduction="sum")


def _pass(
    network: Network,
    optimizer: torch.optim.Optimizer,
    sequences: Sequence[Ints],
    settings: NetworkSettings,
    seed: int,
) -> float:
    """One pass over all sequences; the mean loss of an answer."""
    network.train()
    draw = np.random.default_rng(seed)
    torch.manual_seed(seed)
    found = [one for sequence in sequences for one in windows(sequence, settings.max_length, draw)]
    total, count = 0.0, 0
    for batch in batches(found, settings.batch_size, draw):
        loss, answers = _step(network, optimizer, padded(batch), draw)
        if not math.isfinite(loss):
            raise ModelError(f"the loss is {loss}: lower the network's learning_rate")
        total += loss * answers
        count += answers
    return total / count


def _step(
    network: Network, optimizer: torch.optim.Optimizer, batch: Ints, draw: np.random.Generator
) -> tuple[float, int]:
    inputs, targets = (
        torch.from_numpy(np.ascontiguousarray(one)).to(network.items.own.device)
        for one in network.examples(batch, draw)
    )
    table = network.items()
    learned = targets != PAD
    states = network.states(inputs, table)[learned]
    loss = cross_entropy(states, table, targets[learned])
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(network.parameters(), _CLIP)
    optimizer.step()
    return float(loss.detach()), len(states)


def _optimizer(network: Network, settings: NetworkSettings) -> torch.optim.Optimizer:
    learned = [one for one in network.parameters() if one.requires_grad]
    return torch.optim.AdamW(learned, lr=settings.learning_rate, weight_decay=settings.weight_decay)


def _average(network: Network, decay: float) -> AveragedModel | None:
    """The moving average of the weights, where there is to be one."""
    if not decay:
        return None
    move = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    return AveragedModel(network, multi_avg_fn=move)


def _weights(network: Network) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def _device(name: str) -> torch.device:
    if name != "auto":
        return torch.device(name)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
