"""The settings of the networks over item sequences."""

from __future__ import annotations

import itertools
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from trsr.settings import Settings

Dropout = Annotated[float, Field(ge=0, lt=1)]
TextUse = Literal["none", "start", "add"]
"""What texts are used for: nothing, where vectors start, or what is added to them."""
Rate = Annotated[float, Field(gt=0)]

_AVERAGED = (
    "what is validated and kept is a moving average of the weights, which keeps this share of "
    "itself a pass; 0: the weights themselves"
)
_PATIENCE = "stop after this many passes without a better validation NDCG@10"


class NetworkSettings(Settings):
    """A network that predicts a user's next item, and how it is trained.

    Where a list is given, a network is trained with each of its values, and validation chooses.
    """

    hidden: int = Field(64, ge=1, description="length of an item's vector and of a state")
    layers: int = Field(2, ge=1, description="layers of the network")
    dropout: tuple[Dropout, ...] = Field(
        (0.2,),
        min_length=1,
        description="candidates for the dropout of vectors and layers; a number alone is one",
    )
    max_length: int = Field(50, ge=1, description="the latest items of a history that it reads")
    start: Literal["random", "text"] = Field(
        "random",
        description="the items' vectors at first: random, or the main components of their texts' "
        "embeddings (LLM2BERT4Rec)",
    )
    learning_rate: tuple[Rate, ...] = Field(
        (1e-3,),
        min_length=1,
        description="candidates for AdamW's rate; a number alone is one. Each is trained with each "
        "dropout, which takes as many times as long",
    )
    weight_decay: float = Field(0.0, ge=0, description="AdamW's weight decay")
    average_decay: float = Field(
        0.0,
        ge=0,
        lt=1,
        description=_AVERAGED,
    )
    batch_size: int = Field(32, ge=1, description="sequences an optimizer step")
    max_epochs: int = Field(200, ge=1, description="most passes over the training sequences")
    patience: int = Field(10, ge=1, description=_PATIENCE)
    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="where it runs")

    @field_validator("dropout", "learning_rate", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        """A number alone is a list of one."""
        return (value,) if isinstance(value, int | float | str) else value

    @property
    def candidates(self) -> list[tuple[float, float]]:
        """Every dropout with every learning rate, the first of both lists first."""
        return list(itertools.product(self.dropout, self.learning_rate))


class AttentionSettings(NetworkSettings):
    """A network of attention layers."""

    heads: int = Field(2, ge=1, description="attention heads; they divide the hidden length")

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.hidden % self.heads:
            raise ValueError(f"hidden = {self.hidden} cannot be cut into {self.heads} heads")
        return self


class Gru4recSettings(NetworkSettings):
    """GRU4Rec: a recurrent network."""

    layers: int = Field(1, ge=1, description="layers of the network")


class Bert4recSettings(AttentionSettings):
    """BERT4Rec: attention in both directions, trained to fill in masked items."""

    # It learns from a fifth of the items a pass, so its validation is noisy and rises for long: a
    # single pass's luck is not to be taken for the best.
    average_decay: float = Field(
        0.85,
        ge=0,
        lt=1,
        description=_AVERAGED,
    )
    patience: int = Field(20, ge=1, description=_PATIENCE)
    mask_share: float = Field(0.2, gt=0, lt=1, description="share of a sequence's items masked")
