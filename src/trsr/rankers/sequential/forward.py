"""A trained network's scores by NumPy: a service asks it without loading torch.

Each function computes what the network of its kind in `networks` computes, in fp32 as there,
without dropout; tests hold the two together. Rankers score by this one alone, in a run and
after it, so that both rank alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from trsr.rankers.settings import HEADS, SequentialSettings

Ints = npt.NDArray[np.int64]

PAD = -1
"""Fills a shorter sequence up; also a target that is not learned."""
MASK = -2
"""Stands where an item is to be filled in."""

_POOL = 20  # batches whose windows are sorted by length together


def windows(sequence: Ints, size: int, draw: np.random.Generator) -> Iterator[Ints]:
    """Cuts a sequence so that each item but the first follows another in exactly one window.

    Neighbours share one item. The first cut of a long sequence is drawn, so that from one pass to
    the next an item stands at other places, after more or fewer others. A window holds one item
    more than `size` at most.

    Yields:
        Windows of 2 to `size + 1` items.
    """
    if len(sequence) < 2:
        return
    if len(sequence) <= size + 1:
        yield sequence
        return
    first = int(draw.integers(1, size + 1))
    for start in (0, *range(first, len(sequence) - 1, size)):
        yield sequence[start : (start or first - size) + size + 1]


def batches(found: Sequence[Ints], size: int, draw: np.random.Generator) -> Iterator[list[Ints]]:
    """All windows in drawn order, those of like length side by side, so that little is padded."""
    order = draw.permutation(len(found))
    groups: list[Ints] = []
    for start in range(0, len(order), size * _POOL):
        pool = order[start : start + size * _POOL]
        pool = pool[np.argsort([len(found[n]) for n in pool], kind="stable")]
        groups += [pool[at : at + size] for at in range(0, len(pool), size)]
    for group in draw.permutation(len(groups)):
        yield [found[n] for n in groups[group]]


def padded(sequences: Sequence[Ints]) -> Ints:
    """[sequences, longest] filled up with `PAD` at the end."""
    result = np.full((len(sequences), max(map(len, sequences))), PAD, dtype=np.int64)
    for row, sequence in zip(result, sequences, strict=True):
        row[: len(sequence)] = sequence
    return result


Floats = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]
Weights = Mapping[str, Singles]

_erf = np.frompyfunc(math.erf, 1, 1)
_HIDDEN = np.float32(-1e30)  # an attention logit of what is not seen


class Forward:
    """Log-probabilities of the next item."""

    def __init__(self, kind: str, settings: SequentialSettings, weights: Weights) -> None:
        self._states = _KINDS[kind]
        self._masked = kind == "bert4rec"
        self._settings = settings
        self.weights = weights
        # of items that are known by their texts alone
        self._bias = weights.get("items.bias", np.zeros(settings.hidden, np.float32))
        self._own = weights.get("items.own", self._bias)
        if "items.texts" in weights:
            self._own = self._own + weights["items.texts"] @ weights["items.map"]
        self._held: tuple[Floats | None, Singles] = None, self._own

    @property
    def reads_texts(self) -> bool:
        """Whether it knows items by their texts."""
        return "items.map" in self.weights

    def log_probabilities(self, histories: Sequence[Ints], texts: Floats | None = None) -> Floats:
        """[histories, items + texts] how likely each item comes next, among the network's items.

        Args:
            histories: Item numbers, oldest first, at least one each.
            texts: [texts, any] embeddings of further items, which the histories may name by the
                numbers after the network's. Their scores are on the same scale, but the network's
                items alone sum to 1.
        """
        table = self._table(texts)
        asked = [history[-self._settings.max_length :] for history in histories]
        if self._masked:
            asked = [np.append(history, MASK) for history in asked]
        sequences = padded(asked)
        vectors = table[np.maximum(sequences, 0)] * (sequences >= 0)[..., None].astype(np.float32)
        ends = np.array([len(one) - 1 for one in asked])
        found = self._states(self.weights, self._settings, sequences, vectors, ends)
        # In fp64, so that large logits cost no digits.
        logits = found.astype(np.float64) @ table.T.astype(np.float64)
        own = logits[:, : len(self._own)]
        most = own.max(axis=1, keepdims=True)
        whole = most + np.log(np.exp(own - most).sum(axis=1, keepdims=True))
        return cast("Floats", logits - whole)

    def _table(self, texts: Floats | None) -> Singles:
        """[items + texts, hidden] the vectors; those of the last texts are held.

        They are those of the catalog for nearly every query, and cost more than the network.
        """
        held, table = self._held
        if texts is held:
            return table
        if texts is None:
            return self._own
        centred = texts.astype(np.float32) - self.weights["items.mean"]
        more = centred @ self.weights["items.map"] + self._bias
        table = np.concatenate([self._own, more])
        self._held = texts, table
        return table


def _sasrec(
    weights: Weights, settings: Any, sequences: Ints, vectors: Singles, ends: Ints
) -> Singles:
    """[histories, hidden] the last states of a GPT-2."""
    length = vectors.shape[1]
    states = vectors + weights["decoder.wpe.weight"][:length]
    later = np.triu(np.full((length, length), _HIDDEN), 1)
    for layer in range(settings.layers):
        at = f"decoder.h.{layer}"
        read = _norm(states, weights, f"{at}.ln_1", 1e-5)
        parts = _product(read, weights, f"{at}.attn.c_attn", transposed=False)
        query, key, value = np.split(parts, 3, axis=2)
        seen = _attention(query, key, value, HEADS, later)
        states = states + _product(seen, weights, f"{at}.attn.c_proj", transposed=False)
        read = _norm(states, weights, f"{at}.ln_2", 1e-5)
        inner = _gelu_tanh(_product(read, weights, f"{at}.mlp.c_fc", transposed=False))
        states = states + _product(inner, weights, f"{at}.mlp.c_proj", transposed=False)
    return _norm(_last(states, ends), weights, "decoder.ln_f", 1e-5)


def _bert4rec(
    weights: Weights, settings: Any, sequences: Ints, vectors: Singles, ends: Ints
) -> Singles:
    """[histories, hidden] the states of the masked last items."""
    length = vectors.shape[1]
    vectors = np.where((sequences == MASK)[..., None], weights["mask"], vectors)
    at = "encoder.embeddings"
    places = weights[f"{at}.position_embeddings.weight"][:length]
    states = vectors + weights[f"{at}.token_type_embeddings.weight"][0] + places
    states = _norm(states, weights, f"{at}.LayerNorm", 1e-12)
    unseen = np.where((sequences == PAD)[:, None, None, :], _HIDDEN, np.float32(0))
    for layer in range(settings.layers):
        at = f"encoder.encoder.layer.{layer}"
        query, key, value = (
            _product(states, weights, f"{at}.attention.self.{part}")
            for part in ("query", "key", "value")
        )
        seen = _attention(query, key, value, HEADS, unseen)
        if layer == settings.layers - 1:  # no more than the last item is asked for
            seen, states = _last(seen, ends), _last(states, ends)
        states = states + _product(seen, weights, f"{at}.attention.output.dense")
        states = _norm(states, weights, f"{at}.attention.output.LayerNorm", 1e-12)
        inner = _gelu(_product(states, weights, f"{at}.intermediate.dense"))
        states = states + _product(inner, weights, f"{at}.output.dense")
        states = _norm(states, weights, f"{at}.output.LayerNorm", 1e-12)
    return _norm(_gelu(_product(states, weights, "out.0")), weights, "out.2", 1e-5)


def _gru4rec(
    weights: Weights, settings: Any, sequences: Ints, vectors: Singles, ends: Ints
) -> Singles:
    """[histories, hidden] the last states of a recurrent network."""
    states = vectors
    for layer in range(settings.layers):
        states = _recurrent(states, weights, layer)
    return _product(_last(states, ends), weights, "out")


def _recurrent(states: Singles, weights: Weights, layer: int) -> Singles:
    given = states @ weights[f"gru.weight_ih_l{layer}"].T + weights[f"gru.bias_ih_l{layer}"]
    turn, bias = weights[f"gru.weight_hh_l{layer}"].T, weights[f"gru.bias_hh_l{layer}"]
    hidden = np.zeros((len(states), turn.shape[0]), np.float32)
    found = np.empty((*states.shape[:2], turn.shape[0]), np.float32)
    for place in range(states.shape[1]):
        reset, update, new = np.split(given[:, place], 3, axis=1)
        own_reset, own_update, own_new = np.split(hidden @ turn + bias, 3, axis=1)
        keep = _sigmoid(update + own_update)
        fresh = np.tanh(new + _sigmoid(reset + own_reset) * own_new)
        hidden = (1 - keep) * fresh + keep * hidden
        found[:, place] = hidden
    return found


def _last(states: Singles, ends: Ints) -> Singles:
    return states[np.arange(len(states)), ends]


def _product(states: Singles, weights: Weights, name: str, *, transposed: bool = True) -> Singles:
    matrix = weights[f"{name}.weight"]
    return cast("Singles", states @ (matrix.T if transposed else matrix) + weights[f"{name}.bias"])


def _norm(states: Singles, weights: Weights, name: str, epsilon: float) -> Singles:
    centred = states - states.mean(axis=-1, keepdims=True)
    spread = np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + np.float32(epsilon))
    return cast("Singles", centred / spread * weights[f"{name}.weight"] + weights[f"{name}.bias"])


def _attention(
    query: Singles, key: Singles, value: Singles, heads: int, hidden: Singles
) -> Singles:
    """[histories, length, hidden] what each place reads of those that it sees."""
    shape = (*query.shape[:2], heads, query.shape[2] // heads)
    asked, there, read = (part.reshape(shape).transpose(0, 2, 1, 3) for part in (query, key, value))
    logits = asked @ there.transpose(0, 1, 3, 2) / np.float32(math.sqrt(shape[3])) + hidden
    logits -= logits.max(axis=-1, keepdims=True)
    shares = np.exp(logits)
    shares /= shares.sum(axis=-1, keepdims=True)
    return cast("Singles", (shares @ read).transpose(0, 2, 1, 3).reshape(query.shape))


def _sigmoid(values: Singles) -> Singles:
    return cast("Singles", (np.tanh(values / 2) + 1) / 2)


def _gelu(values: Singles) -> Singles:
    return cast("Singles", values * (_erf(values / math.sqrt(2)).astype(np.float32) + 1) / 2)


def _gelu_tanh(values: Singles) -> Singles:
    cubes = values * values * values  # a tenth of the time of values**3
    inner = np.float32(math.sqrt(2 / math.pi)) * (values + np.float32(0.044715) * cubes)
    return cast("Singles", values / 2 * (1 + np.tanh(inner)))


_KINDS: dict[str, Callable[[Weights, Any, Ints, Singles, Ints], Singles]] = {
    "sasrec": _sasrec,
    "gru4rec": _gru4rec,
    "bert4rec": _bert4rec,
}
