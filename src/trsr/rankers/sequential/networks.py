"""The networks: SASRec, GRU4Rec and BERT4Rec over the catalog as vocabulary.

Sequences are filled up at the end. A network that reads in one direction cannot see the filling
from the items before it, and one that reads in both is given where it is: so what stands beside a
sequence in a batch changes nothing in it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from trsr.rankers.sequential.forward import MASK, PAD, Ints, padded
from trsr.rankers.settings import HEADS, SequentialSettings, TextUse

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


Floats = npt.NDArray[np.float64]

_MASKED = 0.2
"""The share of a sequence's items that BERT4Rec is to fill in (the paper's share for MovieLens)."""
SPREAD = 0.02
"""Standard deviation of a random vector's entries, as BERT and GPT-2 start."""


class ItemTable(nn.Module):
    """One vector an item, read as input and as output (tied).

    With `text = "start"` the vectors begin as the main components of the texts' embeddings, scaled
    to the spread of random ones (LLM2BERT4Rec: Harte et al. 2023, section 3.3). With `text = "add"`
    a vector is the item's own plus a learned linear map of its text's embedding; the map begins as
    those same components. Own entries beyond the number of components begin as random. With `text =
    "only"` a vector is that map plus a bias that all items share, and nothing of an item's own
    (LLM2Rec: He et al. 2025, section 4.3).

    Args:
        items: How many items there are.
        hidden: Length of a vector.
        text: What text is used for.
        texts: [items, any] embeddings; needed unless `text` is none.

    The random entries are drawn from torch's generator.
    """

    mean: Tensor
    texts: Tensor

    def __init__(
        self, items: int, hidden: int, text: TextUse = "none", texts: Floats | None = None
    ) -> None:
        super().__init__()
        self.text = text
        if text == "only":
            self.bias = nn.Parameter(torch.zeros(hidden))
        else:
            self.own = nn.Parameter(torch.randn(items, hidden) * SPREAD)
        if text == "none":
            return
        if texts is None:
            raise ValueError(f"text = {text} needs the texts' embeddings")
        mean, components = _principal(texts, hidden)
        centred = torch.tensor(texts - mean, dtype=torch.float32)
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        self.map = nn.Parameter(torch.tensor(components, dtype=torch.float32))
        if text in ("add", "only"):
            self.register_buffer("texts", centred)
        else:
            # The map stays as it is: it gives vectors to items that training did not see.
            self.map.requires_grad_(False)
            filled = components.any(axis=0)
            with torch.no_grad():
                self.own[:, torch.tensor(filled)] = (centred @ self.map)[:, torch.tensor(filled)]

    def forward(self) -> Tensor:
        """[items, hidden] all vectors."""
        if self.text == "only":
            return self.bias + self.texts @ self.map
        return self.own + self.texts @ self.map if self.text == "add" else self.own

    def of_texts(self, texts: Floats) -> Tensor:
        """[rows, hidden] vectors of items that training did not see, from their texts alone."""
        given = torch.tensor(texts, dtype=torch.float32, device=self.map.device)
        found = (given - self.mean) @ self.map
        return found + self.bias if self.text == "only" else found


def _principal(texts: Floats, hidden: int) -> tuple[Floats, Floats]:
    """The mean [any] and a map [any, hidden] onto the main components, scaled to `SPREAD`.

    Columns beyond the number of components are zero. Each component's largest weight is positive:
    a decomposition leaves the signs open.
    """
    mean = texts.mean(axis=0)
    centred = texts - mean
    _, _, components = np.linalg.svd(centred, full_matrices=False)
    found = components[:hidden].T
    rows = np.abs(found).argmax(axis=0)
    found = found * np.where(found[rows, np.arange(found.shape[1])] < 0, -1.0, 1.0)
    spread = (centred @ found).std()
    result = np.zeros((texts.shape[1], hidden))
    if spread > 0:
        result[:, : found.shape[1]] = found * (SPREAD / spread)
    return mean, result


_LAST_ONLY = 0.1  # share of windows of which only the last item is masked


class Network(nn.Module, ABC):
    """Turns item sequences into states; a state's product with an item's vector is its logit."""

    def __init__(self, items: ItemTable, settings: SequentialSettings) -> None:
        super().__init__()
        self.items = items
        self.max_length = settings.max_length

    @abstractmethod
    def states(self, sequences: Tensor, table: Tensor) -> Tensor:
        """[batch, length, hidden] from [batch, length] item numbers, `PAD` and `MASK`.

        The table is [items, hidden].
        """

    def examples(self, batch: Ints, draw: np.random.Generator) -> tuple[Ints, Ints]:
        """What training shows and what is to be said: [batch, length] inputs and targets.

        A target is `PAD` where nothing is learned. Here: each next item.
        """
        return batch[:, :-1], batch[:, 1:]

    def asked(self, history: Ints) -> Ints:
        """The input whose last state predicts what follows a history of at least one item."""
        return history[-self.max_length :]

    @torch.no_grad()
    def log_probabilities(self, histories: Sequence[Ints], texts: Floats | None = None) -> Floats:
        """[histories, items + texts] how likely each item comes next, among the table's.

        Arguments are those of `Forward.log_probabilities`, whose result this is.
        """
        self.eval()
        own = self.items()
        table = own if texts is None else torch.cat([own, self.items.of_texts(texts)])
        asked = [self.asked(history) for history in histories]
        states = self.states(torch.from_numpy(padded(asked)).to(own.device), table)
        ends = torch.tensor([len(one) - 1 for one in asked], device=own.device)
        found = states[torch.arange(len(asked), device=own.device), ends]
        # In fp64 (which not every device has), so that large logits cost no digits.
        logits = found.cpu().double() @ table.cpu().double().T
        whole = logits[:, : len(own)].logsumexp(dim=1, keepdim=True)
        return cast("Floats", (logits - whole).numpy())


class Sasrec(Network):
    """SASRec (Kang and McAuley 2018): attention to the items before, a small GPT-2 inside.

    Against the paper: the norms and the activation are GPT-2's, and the loss is the cross-entropy
    over all items, without which it falls behind BERT4Rec (Klenitskiy and Vasilev 2023).
    """

    def __init__(self, items: ItemTable, settings: SequentialSettings, dropout: float) -> None:
        from transformers import GPT2Config, GPT2Model

        super().__init__(items, settings)
        config = GPT2Config(
            vocab_size=1,  # the items' vectors come from the table
            n_positions=settings.max_length,
            n_embd=settings.hidden,
            n_layer=settings.layers,
            n_head=HEADS,
            resid_pdrop=dropout,
            embd_pdrop=dropout,
            attn_pdrop=dropout,
            use_cache=False,
            bos_token_id=None,
            eos_token_id=None,
        )
        self.decoder = GPT2Model(config)

    def states(self, sequences: Tensor, table: Tensor) -> Tensor:
        """States of the items so far."""
        vectors = _vectors(sequences, table)
        return cast("Tensor", self.decoder(inputs_embeds=vectors).last_hidden_state)


class Gru4rec(Network):
    """GRU4Rec (Hidasi et al. 2016), with the cross-entropy over all items as its loss."""

    def __init__(self, items: ItemTable, settings: SequentialSettings, dropout: float) -> None:
        super().__init__(items, settings)
        between = dropout if settings.layers > 1 else 0.0
        size = settings.hidden
        self.gru = nn.GRU(size, size, settings.layers, batch_first=True, dropout=between)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(size, size)

    def states(self, sequences: Tensor, table: Tensor) -> Tensor:
        """States of the items so far."""
        found, _ = self.gru(self.dropout(_vectors(sequences, table)))
        return cast("Tensor", self.out(self.dropout(found)))


class Bert4rec(Network):
    """BERT4Rec (Sun et al. 2019): attention in both directions, trained to fill in masked items.

    A tenth of the windows hide their last item alone, which is what ranking asks for; the others
    hide a drawn share, at least one.
    """

    def __init__(self, items: ItemTable, settings: SequentialSettings, dropout: float) -> None:
        from transformers import BertConfig, BertModel

        super().__init__(items, settings)
        config = BertConfig(
            vocab_size=1,  # the items' vectors come from the table
            hidden_size=settings.hidden,
            num_hidden_layers=settings.layers,
            num_attention_heads=HEADS,
            intermediate_size=4 * settings.hidden,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
            max_position_embeddings=settings.max_length + 1,
        )
        self.encoder = BertModel(config, add_pooling_layer=False)
        self.mask = nn.Parameter(torch.randn(settings.hidden) * config.initializer_range)
        # Section 3.6: one more layer before the items' vectors.
        self.out = nn.Sequential(
            nn.Linear(settings.hidden, settings.hidden), nn.GELU(), nn.LayerNorm(settings.hidden)
        )

    def states(self, sequences: Tensor, table: Tensor) -> Tensor:
        """States of all items, each having seen all others."""
        vectors = _vectors(sequences, table)
        vectors = torch.where((sequences == MASK)[..., None], self.mask, vectors)
        there = (sequences != PAD).long()
        found = self.encoder(inputs_embeds=vectors, attention_mask=there).last_hidden_state
        return cast("Tensor", self.out(found))

    def examples(self, batch: Ints, draw: np.random.Generator) -> tuple[Ints, Ints]:
        """The windows with some items masked, and those items."""
        there = batch != PAD
        last = there.sum(axis=1) - 1
        hidden = (draw.random(batch.shape) < _MASKED) & there
        alone = (draw.random(len(batch)) < _LAST_ONLY) | ~hidden.any(axis=1)
        hidden[alone] = np.arange(batch.shape[1]) == last[alone, None]
        return np.where(hidden, MASK, batch), np.where(hidden, batch, PAD)

    def asked(self, history: Ints) -> Ints:
        """The latest items and a masked one."""
        return np.append(history[-self.max_length :], MASK)


NETWORKS: dict[str, Callable[..., Network]] = {
    "sasrec": Sasrec,
    "gru4rec": Gru4rec,
    "bert4rec": Bert4rec,
}


def _vectors(sequences: Tensor, table: Tensor) -> Tensor:
    """[batch, length, hidden]; zero where there is no item."""
    found = functional.embedding(sequences.clamp(min=0), table)
    return found * (sequences >= 0)[..., None]
