"""LLMSeqSim (Harte et al. 2023, arXiv:2309.09261): items near the history in a text embedding.

A session is the mean of its items' embeddings, plain, decayed, or the last item alone; which,
is chosen on validation cases. No language model is asked, and nothing is trained.
"""

from trsr.methods import Method

METHOD = Method(
    name="llm_seq_sim",
    description="items whose text embeddings are near the history's; nothing is trained",
    source="Harte et al. 2023, arXiv:2309.09261",
    stages=("prepare", "rank", "evaluate"),
    config={
        "summarize": {"strategy": "none"},
        "train": {"epochs": 0},
        "rank": {
            "rankers": ["popular", "text_knn"],
            "text_knn": {"profile": ["decayed", "mean", "last"]},
        },
    },
)
