"""The settings that the networks over item sequences share."""

from __future__ import annotations

import itertools
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator

from trsr.settings import Settings

Dropout = Annotated[float, Field(ge=0, lt=1)]
TextUse = Literal["none", "start", "add", "only"]
"""What texts are used for: nothing, where vectors start, what is added to them, or all of them."""
Rate = Annotated[float, Field(gt=0)]

# BERT4Rec learns from a fifth of the items a pass, so its validation is noisy and rises for long:
# a single pass's luck is not to be taken for the best.
HEADS = 2
"""Attention heads, as in both papers; they divide `hidden`."""
_OWN: dict[str, dict[str, Any]] = {
    "sasrec": {"layers": 2, "patience": 10, "average_decay": 0.0},
    "gru4rec": {"layers": 1, "patience": 10, "average_decay": 0.0},
    "bert4rec": {"layers": 2, "patience": 20, "average_decay": 0.85},
}


class SequentialSettings(Settings):
    """Networks that predict a user's next item (SASRec, GRU4Rec, BERT4Rec), and their training.

    Where a list is given, a network is trained with each of its values, and validation chooses.
    """

    hidden: int = Field(
        64, ge=2, multiple_of=2, description="length of an item's vector and of a state; even"
    )
    layers: int = Field(
        0, ge=0, description="layers of the network; 0: 1 for gru4rec, 2 for the others"
    )
    max_length: int = Field(50, ge=1, description="the latest items of a history that it reads")
    dropout: tuple[Dropout, ...] = Field(
        (0.2,),
        min_length=1,
        description="candidates for the dropout of vectors and layers; a number alone is one",
    )
    learning_rate: tuple[Rate, ...] = Field(
        (1e-3,),
        min_length=1,
        description="candidates for AdamW's rate; a number alone is one. Each is trained with each "
        "dropout, which takes as many times as long",
    )
    average_decay: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="what is validated and kept is a moving average of the weights, which keeps "
        "this share of itself a pass; 0: the weights themselves; left out: 0.85 for bert4rec, 0 "
        "for others",
    )
    batch_size: int = Field(32, ge=1, description="sequences an optimizer step")
    max_epochs: int = Field(200, ge=1, description="most passes over the training sequences")
    patience: int = Field(
        0,
        ge=0,
        description="stop after this many passes without a better validation NDCG@10; 0: 20 for "
        "bert4rec, 10 for the others",
    )

    @field_validator("dropout", "learning_rate", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        """A number alone is a list of one."""
        return (value,) if isinstance(value, int | float | str) else value

    @property
    def candidates(self) -> list[tuple[float, float]]:
        """Every dropout with every learning rate, the first of both lists first."""
        return list(itertools.product(self.dropout, self.learning_rate))

    def of(self, kind: str) -> Self:
        """The same with a kind's own values where none is given."""
        fields = type(self).model_fields
        own = {
            key: value
            for key, value in _OWN[kind].items()
            if getattr(self, key) == fields[key].default
        }
        return self.model_copy(update=own)
