"""Trains a network on item sequences, and stops when it no longer gets better."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.checkpoint import checkpoint

from trsr.errors import ModelError
from trsr.progress import Progress, Silent
from trsr.rankers.sequential.forward import PAD, Ints, batches, padded, windows
from trsr.rankers.sequential.networks import NETWORKS, Floats, ItemTable, Network
from trsr.rankers.settings import SequentialSettings, TextUse
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
        dropout: What it was trained with.
        learning_rate: Likewise.
        tried: How many pairs of a dropout and a learning rate were trained with.
    """

    network: Network
    passes: int
    score: float
    dropout: float
    learning_rate: float
    tried: int


def fit(
    kind: str,
    sequences: Sequence[Ints],
    items: int,
    held: Sequence[Held],
    settings: SequentialSettings,
    *,
    seed: int,
    text: TextUse = "none",
    texts: Floats | None = None,
    progress: Progress | None = None,
) -> Fitted:
    """Makes a network and trains it; the weights of the best validation are kept.

    Each dropout is tried with each learning rate, all with the same draws, and the network with
    the best validation is kept, the first of equals; at most one is held beside the best. Without
    validation the first pair alone is trained: the training loss would choose no dropout.

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
        settings: The network's size, and the training with its candidates.
        seed: Every draw follows from it.
        text: What the items' texts are used for; see `ItemTable`.
        texts: [items, any] embeddings of the texts.
        progress: Shows each pass, and of several pairs which are done.

    Raises:
        ModelError: If the loss is not finite.
    """
    settings = settings.of(kind)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    progress = progress or Silent()
    pairs = settings.candidates if held else settings.candidates[:1]
    several = len(pairs) > 1
    progress.begin(*((len(pairs), f"settings of {kind}") if several else (None, "passes")))

    def trained(dropout: float, rate: float) -> Fitted:
        name = f"{kind}, dropout {dropout:g}, learning_rate {rate:g}" if several else kind

        def report(epoch: int, loss: float, score: float) -> None:
            _log.info("%s: pass %d, loss %.4f, validation %.4f", name, epoch, loss, score)
            said = f"loss {loss:.4g}" + (f", validation NDCG@10 {score:.4g}" if held else "")
            if several:  # the bar counts settings
                progress.advance(0, f"{name}: pass {epoch}, {said}")
            else:
                progress.advance(1, f"{kind}: {said}")

        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(derive_seed(seed, "weights"))
            table = ItemTable(items, settings.hidden, text, texts)
            network = NETWORKS[kind](table, settings, dropout).to(device)
            passes, score = _train(network, sequences, held, settings, rate, seed, report)
        if several:
            what = f"validation NDCG@10 {score:.4g}" if held else f"loss {-score:.4g}"
            progress.advance(1, f"{name}: {what}")
        return Fitted(network.eval(), passes, score, dropout, rate, len(pairs))

    best = trained(*pairs[0])
    for pair in pairs[1:]:
        # no name for the new one: it would stay while the next is trained
        best = max(best, trained(*pair), key=lambda one: one.score)
    return best


def _train(
    network: Network,
    sequences: Sequence[Ints],
    held: Sequence[Held],
    settings: SequentialSettings,
    rate: float,
    seed: int,
    report: Callable[[int, float, float], None],
) -> tuple[int, float]:
    """Trains a network by this learning rate; it ends with its best weights.

    Returns:
        After how many passes it was best, and its validation then.
    """
    best, passes, score = _weights(network), 0, -math.inf
    optimizer = _optimizer(network, rate)
    average = _average(network, settings.average_decay)
    kept = cast("Network", average.module) if average else network
    for epoch in range(1, settings.max_epochs + 1):
        loss = _pass(network, optimizer, sequences, settings, derive_seed(seed, f"{epoch}"))
        if average:
            average.update_parameters(network)
        found = ndcg(kept, held) if held else -loss
        report(epoch, loss, found)
        if found > score:
            best, passes, score = _weights(kept), epoch, found
        if epoch - passes >= settings.patience:
            break
    network.load_state_dict(best)
    return passes, score


def ndcg(network: Network, held: Sequence[Held], at: int = 10) -> float:
    """The mean NDCG over the items that are not of the history; a tie counts as the worse rank.

    That is what candidates are: items that the user has not seen. An answer stays one in any case.
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

    Of states [n, hidden], a table [items, hidden] and [n] item numbers. At most `most` logits are
    kept at one time, which changes nothing else.
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
    settings: SequentialSettings,
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
            rate = optimizer.param_groups[0]["lr"]
            raise ModelError(
                f"the loss is {loss} with learning_rate = {rate:g}: lower the network's "
                "learning_rate, or leave that value out of it"
            )
        total += loss * answers
        count += answers
    return total / count


def _step(
    network: Network, optimizer: torch.optim.Optimizer, batch: Ints, draw: np.random.Generator
) -> tuple[float, int]:
    table = network.items()
    inputs, targets = (
        torch.from_numpy(np.ascontiguousarray(one)).to(table.device)
        for one in network.examples(batch, draw)
    )
    convergence = targets != PAD
    states = network.states(inputs, table)[convergence]
    loss = cross_entropy(states, table, targets[convergence])
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(network.parameters(), _CLIP)
    optimizer.step()
    return float(loss.detach()), len(states)


def _optimizer(network: Network, rate: float) -> torch.optim.Optimizer:
    convergence = [one for one in network.parameters() if one.requires_grad]
    return torch.optim.AdamW(convergence, lr=rate, weight_decay=0.0)


def _average(network: Network, decay: float | None) -> AveragedModel | None:
    """The moving average of the weights, where there is to be one."""
    if not decay:
        return None
    move = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    return AveragedModel(network, multi_avg_fn=move)


def _weights(network: Network) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
