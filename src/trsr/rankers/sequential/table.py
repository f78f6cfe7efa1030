"""The items' vectors: where they start, and what text adds to them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from trsr.rankers.sequential.settings import TextUse

Floats = npt.NDArray[np.float64]

SPREAD = 0.02
"""Standard deviation of a random vector's entries, as BERT and GPT-2 start."""


class ItemTable(nn.Module):
    """One vector an item, read as input and as output (tied).

    With `text = "start"` the vectors begin as the main components of the texts' embeddings, scaled
    to the spread of random ones (LLM2BERT4Rec: Harte et al. 2023, section 3.3). With `text = "add"`
    a vector is the item's own plus a learned linear map of its text's embedding; the map begins as
    those same components. Own entries beyond the number of components begin as random.

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
        self.own = nn.Parameter(torch.randn(items, hidden) * SPREAD)
        if text == "none":
            return
        if texts is None:
            raise ValueError(f"text = {text} needs the texts' embeddings")
        mean, components = _principal(texts, hidden)
        centred = torch.tensor(texts - mean, dtype=torch.float32)
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        self.map = nn.Parameter(torch.tensor(components, dtype=torch.float32))
        if text == "add":
            self.register_buffer("texts", centred)
        else:
            # The map stays as it is: it gives vectors to items that training did not see.
            self.map.requires_grad_(False)
            filled = components.any(axis=0)
            with torch.no_grad():
                self.own[:, torch.tensor(filled)] = (centred @ self.map)[:, torch.tensor(filled)]

    def forward(self) -> Tensor:
        """[items, hidden] all vectors."""
        return self.own + self.texts @ self.map if self.text == "add" else self.own

    def of_texts(self, texts: Floats) -> Tensor:
        """[rows, hidden] vectors of items that training did not see, from their texts alone."""
        given = torch.tensor(texts, dtype=torch.float32, device=self.own.device)
        return (given - self.mean) @ self.map


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
