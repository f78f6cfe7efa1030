"""LLM2BERT4Rec (Harte et al. 2023, arXiv:2309.09261): BERT4Rec that starts from item texts.

The items' vectors start as the main components of their texts' embeddings, and are trained on.
"""

from trsr.methods import Method

METHOD = Method(
    name="llm2bert4rec",
    description="BERT4Rec whose items' vectors start from the embeddings of their texts",
    source="Harte et al. 2023, arXiv:2309.09261",
    stages=("prepare", "rank", "evaluate"),
    config={
        "summarize": {"strategy": "none"},
        "train": {"epochs": 0},
        "rank": {"rankers": ["popular", "bert4rec", "bert4rec_text"]},
    },
)
