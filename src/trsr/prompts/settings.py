"""The settings of what is said to a model."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from trsr.settings import Settings


class PromptSettings(Settings):
    """What is said to a model, and how much of each item."""

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
        (), description="the item columns to tell, in this order; empty: all, as the data has them"
    )
    words: int = Field(40, ge=1, description="most words of one field in the judge prompt")
    summary_item_words: int = Field(
        40, ge=1, description="most words of one field in the summary prompts"
    )
    summary_numbers: bool = Field(
        True,
        description="tell words that hold digits (sizes, years, part numbers) in the summary "
        "prompts; small models copy them where they should sum up",
    )
    field_words: dict[str, int] = Field(
        default_factory=dict, description="a column's own word limit, for all prompts"
    )
    recent: int = Field(3, ge=0, description="items told in the judge prompt (paper: 3)")
    summary_words: int = Field(60, ge=5, description="the length asked of a summary, in words")
    use_summary: bool = Field(True, description="tell the summary in the judge prompt")
    summary_of: Literal["own", "another"] = Field(
        "own",
        description="whose summary training, validation and test are told: the user's own, or, as "
        "an ablation's control, that of another user of the same split, drawn by lot; `trsr "
        "recommend`, a sweep's search and `trsr tune-summarizer` refuse another's",
    )
