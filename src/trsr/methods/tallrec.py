"""TALLRec (Bao et al. 2023, arXiv:2305.00447): the language model is tuned on recent items alone.

LoRA and the length of the history are those of the authors' code. Other than there, one log of
interactions has no dislikes, so the prompt names what the user chose and no more.
"""

from trsr.methods import Method

METHOD = Method(
    name="tallrec",
    description="a language model, tuned with LoRA, answers yes or no from the last items alone",
    source="Bao et al. 2023, arXiv:2305.00447",
    stages=("prepare", "train", "rank", "evaluate"),
    config={
        "summarize": {"strategy": "none"},
        "prompts": {"recent": 10},
        "train": {
            "rank": 8,
            "alpha": 16,
            "dropout": 0.05,
            "targets": ["q_proj", "v_proj"],
            "learning_rate": 1e-4,
        },
        "rank": {"rankers": ["popular", "llm_zero_shot", "llm"]},
    },
)
