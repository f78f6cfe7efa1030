"""The settings of the cheap rankers; where a list is given, validation chooses among its values."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from trsr.settings import Settings

Share = Annotated[float, Field(gt=0, le=1)]
Decay = Annotated[float, Field(gt=0, le=1)]
Last = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Profile = Literal["mean", "last", "decayed", "max3"]


_POPULARITY = (1e-3, 0.0, 1e-2, 1e-1, 1.0)
_POPULARITY_IS = (
    "candidates for the weight of a candidate's own popularity, from 0 to 1, beside the sum; a "
    "small one orders what shares no user with the history"
)


class PopularRecentSettings(Settings):
    """Popularity in a window of time."""

    share: tuple[Share, ...] = Field(
        (0.1, 0.03, 0.3, 1.0),
        min_length=1,
        description="candidates for the window's length, as a share of the time that the training "
        "interactions span",
    )
    until: Literal["query", "training"] = Field(
        "query",
        description="where the window ends. query: just before the history's last interaction; "
        "training: with the last training interaction, which for splits by user is later than some "
        "queries",
    )


class Bm25Settings(Settings):
    """BM25 of a candidate's text for the text of the history's items."""

    last: tuple[Last, ...] = Field(
        (0, 5, 1),
        min_length=1,
        description="candidates for how many of the latest items are asked for; 0: all",
    )
    decay: tuple[Decay, ...] = Field(
        (0.8, 0.5, 1.0),
        min_length=1,
        description="candidates for the weight of an item against the one after it",
    )
    k1: float = Field(1.5, ge=0, description="how fast repeated terms saturate")
    b: float = Field(0.75, ge=0, le=1, description="how far long texts are held back")
    stopwords: str = Field(
        "", description="bm25s' list of words left out, such as english; empty: none is"
    )


class ItemKnnSettings(Settings):
    """Items that the same users met, for the whole history."""

    shrinkage: tuple[NotNegative, ...] = Field(
        (10.0, 0.0, 50.0, 200.0),
        min_length=1,
        description="candidates for the number added to the cosine's denominator",
    )
    popularity: tuple[NotNegative, ...] = Field(
        _POPULARITY, min_length=1, description=_POPULARITY_IS
    )


class ItemKnnRecentSettings(Settings):
    """Items that the same users met, for the last items only."""

    last: tuple[Last, ...] = Field(
        (5, 1, 3, 10, 0),
        min_length=1,
        description="candidates for how many of the latest items; 0: all",
    )
    decay: tuple[Decay, ...] = Field(
        (0.7, 0.9),
        min_length=1,
        description="candidates for an item's weight against the one after it",
    )
    shrinkage: tuple[NotNegative, ...] = Field(
        (10.0, 0.0, 50.0, 200.0), min_length=1, description="as for item_knn"
    )
    popularity: tuple[NotNegative, ...] = Field(
        _POPULARITY, min_length=1, description="as for item_knn"
    )


class TextKnnSettings(Settings):
    """Likeness of item texts by their embeddings."""

    profile: tuple[Profile, ...] = Field(
        ("decayed", "mean", "last", "max3"),
        min_length=1,
        description="candidates for what a candidate is compared with: the mean of the history's "
        "embeddings, the last item's, their decayed mean, or each one (mean of the three nearest)",
    )
    decay: tuple[Decay, ...] = Field(
        (0.8, 0.5, 0.3, 0.9),
        min_length=1,
        description="decayed: candidates for an item's weight against the one after it",
    )


class EaseSettings(Settings):
    """The closed-form linear item model."""

    penalty: tuple[Positive, ...] = Field(
        (200.0, 20.0, 1000.0, 5000.0, 20_000.0),
        min_length=1,
        description="candidates for lambda, the L2 penalty",
    )
    popularity: tuple[NotNegative, ...] = Field(
        _POPULARITY, min_length=1, description=_POPULARITY_IS
    )
    max_items: int = Field(
        20_000,
        ge=1,
        description="refuse more items with interactions than this: the dense inverse takes "
        "up to 28 bytes × items²",
    )
