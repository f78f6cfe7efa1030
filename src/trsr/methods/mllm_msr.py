"""MLLM-MSR (Ye et al. 2025, arXiv:2408.09698): what images show becomes words, once an item.

The words are a column of the items, so summaries read them. A preference is revised by blocks of
three items, and the multimodal ranker looks at one image: the candidate's. Other than in the
authors' code the image comes last, so that all candidates share what stands before it, and the
latest items are in the prompt too.
"""

from trsr.methods import Method

METHOD = Method(
    name="mllm_msr",
    description="a multimodal model describes items' images, and looks at the candidate's to rank",
    source="Ye et al. 2025, arXiv:2408.09698",
    stages=("prepare", "describe", "summarize", "train", "rank", "evaluate"),
    config={
        "summarize": {"strategy": "recurrent", "block_items": 3},
        "prompts": {"candidate_image": True},
        "rank": {"rankers": ["popular", "llm_zero_shot", "llm"]},
    },
)
