"""The settings of summarizing, and the table of strategies."""

from __future__ import annotations

from pydantic import Field

from trsr.models.base import SamplingSettings
from trsr.models.settings import ModelSettings
from trsr.registry import PluginTable
from trsr.settings import Settings

STRATEGIES = PluginTable(
    "strategy",
    "trsr.strategies",
    {
        "hierarchical": "trsr.summarize.strategies:Hierarchical",
        "recurrent": "trsr.summarize.strategies:Recurrent",
        "keywords": "trsr.summarize.strategies:KeywordSummary",
        "soft": "trsr.summarize.strategies:SoftSummary",
        "none": "trsr.summarize.strategies:NoSummary",
    },
)

GRADIENT_BLOCKS = 2
"""soft: training reaches back through so many latest blocks (truncated back-propagation)."""


class SummarizeSettings(Settings):
    """How a history becomes a summary."""

    strategy: str = Field("hierarchical", description="see `trsr ls strategies`")
    block_items: int = Field(5, ge=1, description="interactions a block (paper: 5)")
    last_block: bool = Field(
        True,
        description="summarize a last block that is not full (paper); false: full blocks only, "
        "so that a user's successive summaries share their work",
    )
    fan_in: int = Field(
        5,
        ge=2,
        description="hierarchical: summaries merged at once; at least the number of "
        "blocks is the public code's single merge",
    )
    vectors: int = Field(
        8, ge=1, le=64, description="soft: a summary stands in the prompt as so many vectors"
    )
    sampling: SamplingSettings = Field(
        SamplingSettings(), description="how the summaries are generated"
    )
    model: ModelSettings | None = Field(
        None, description="the summarizing model; left out: the one of [model]"
    )

    @property
    def uses_llm(self) -> bool:
        """Whether the strategy needs a language model."""
        return bool(getattr(STRATEGIES.load(self.strategy), "uses_llm", True))

    @property
    def soft(self) -> int:
        """How many vectors are a summary; 0: summaries are texts."""
        return self.vectors if self.strategy == "soft" else 0


class DescribeSettings(Settings):
    """How items' images become words (the stage `describe`)."""

    words: int = Field(40, ge=5, description="the most words about an image")
    model: ModelSettings | None = Field(
        None, description="the model that describes; left out: the one of [model]"
    )
