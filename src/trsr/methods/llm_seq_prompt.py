"""LLMSeqPrompt (Harte et al. 2023, arXiv:2309.09261): the model writes the next item's title.

Other than in the paper, titles are scored or searched among those of the catalog; `title_sampled`
ranks as the paper does. The stages of the yes/no ranker are there too, for runs in which it orders
what the titles propose.
"""

from trsr.methods import Method

METHOD = Method(
    name="llm_seq_prompt",
    description="a language model, tuned with LoRA, writes the title of the next item",
    source="Harte et al. 2023, arXiv:2309.09261",
    stages=("prepare", "summarize", "train", "train_title", "rank", "evaluate"),
    config={
        "summarize": {"strategy": "none"},
        "prompts": {"recent": 10},
        "train": {"learning_rate": 1e-3},
        "rank": {"rankers": ["popular", "title"]},
    },
)
