"""LLM2Rec (He et al. 2025, arXiv:2506.21579): a language model becomes an encoder of items.

It learns which titles follow each other, then to read in both directions, then to tell items
apart. Its frozen vectors feed an ordinary sequence network by a learned map, so a new item needs
its text only. Other than there, LoRA is trained in place of all weights, and each title of a
history stands in a line of its own. The stages of the yes/no ranker are there too, for runs in
which it orders what these vectors propose.
"""

from trsr.methods import Method

METHOD = Method(
    name="llm2rec",
    description="a language model becomes an item encoder, whose frozen vectors feed SASRec",
    source="He et al. 2025, arXiv:2506.21579",
    stages=("prepare", "encode", "summarize", "train", "rank", "evaluate"),
    config={
        "summarize": {"strategy": "none"},
        "train": {"epochs": 0},
        "rank": {
            "rankers": ["popular", "text_knn", "sasrec", "sasrec_llm2rec", "gru4rec_llm2rec"],
            "text_model": "run",
        },
    },
)
