"""LLM-TRSR (Zheng et al. 2024, arXiv:2403.13325): what this package's defaults are."""

from trsr.methods import Method

METHOD = Method(
    name="llm_trsr",
    description="a language model summarizes the history; tuned with LoRA, it answers yes or no",
    source="Zheng et al. 2024, arXiv:2403.13325",
    stages=("prepare", "summarize", "train", "rank", "evaluate"),
)
