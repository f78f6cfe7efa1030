"""The settings of prompts."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal

from pydantic import Field

from trsr.settings import Settings


class PromptSettings(Settings):
    """Which words make a prompt, and how much of each item is in it."""

    domain: str = Field(
        "generic",
        description="products, news, films, generic, or a file of your own (`./mine.toml`)",
    )
    style: Literal["instruct", "worked", "profile"] = Field(
        "instruct",
        description="instruct: plain instructions, for able models; worked: two worked examples "
        "and a begun answer, for small ones; profile: the same, for a few named lists (kinds, "
        "themes, brands, what came last) in place of a sentence",
    )
    fields: tuple[str, ...] = Field(
        (),
        description="the item columns in a prompt, in this order; empty: all, in the data's order",
    )
    words: int = Field(40, ge=1, description="most words of one field in the ranking prompt")
    summary_item_words: int = Field(
        40, ge=1, description="most words of one field in the summary prompts"
    )
    summary_numbers: bool = Field(
        True,
        description="keep words with digits (sizes, years, part numbers) in the summary prompts; "
        "small models tend to copy them",
    )
    candidate_image: bool = Field(
        False,
        description="the ranking prompt ends with the candidate's image, for models that see "
        "(data.images)",
    )
    item_vectors: int = Field(
        0,
        ge=0,
        le=64,
        description="candidates and recent items stand in the ranking prompt as so many vectors, "
        "which an encoder trained with the ranker makes of their texts; 0: as texts",
    )
    recent: int = Field(
        3,
        ge=0,
        description="recent items in the ranking prompt (paper: 3), and titles in the prompt for "
        "the next one",
    )
    summary_words: int = Field(60, ge=5, description="the requested length of a summary, in words")

    def meaning(self, exclude: Collection[str] = ()) -> dict[str, Any]:
        """What prompts depend on, as plain values, without what is not used."""
        unused = {name for name in ("candidate_image", "item_vectors") if not getattr(self, name)}
        return self.model_dump(mode="json", exclude={*exclude} | unused)
