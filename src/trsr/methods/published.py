"""The published methods, each with what differs from its paper."""

from trsr.methods import Method

# What this package's defaults are.
LLM_TRSR = Method(
    name="llm_trsr",
    description="a language model summarizes the history; tuned with LoRA, it answers yes or no",
    source="Zheng et al. 2024, arXiv:2403.13325",
    stages=("prepare", "summarize", "train", "rank", "evaluate"),
)

# LoRA and the length of the history are those of the authors' code. Other than there, one log of
# interactions has no dislikes, so the prompt names what the user chose and no more.
TALLREC = Method(
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

# A session is the mean of its items' embeddings, plain, decayed, or the last item alone; which,
# is chosen on validation cases. No language model is asked.
LLM_SEQ_SIM = Method(
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

# The items' vectors start as the main components of their texts' embeddings, and are trained on.
LLM2BERT4REC = Method(
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

# The words are a column of the items, so summaries read them. A preference is revised by blocks of
# three items. Other than in the authors' code the image comes last, so that all candidates share
# what stands before it, and the latest items are in the prompt too.
MLLM_MSR = Method(
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

# Other than in the paper, titles are scored or searched among those of the catalog; `title_sampled`
# ranks as the paper does. The stages of the yes/no ranker are there too, for runs in which it
# orders what the titles propose.
LLM_SEQ_PROMPT = Method(
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

# The paper compresses LC-Rec, which writes item codes; here the model is that of LLM-TRSR. A short
# training after it is not the paper's.
OD_LLM = Method(
    name="od_llm",
    description="LLM-TRSR, and beside it the same model with linear layers as two thin ones",
    source="arXiv:2601.09306",
    stages=("prepare", "summarize", "train", "compress", "rank", "evaluate"),
    config={"rank": {"rankers": ["popular", "llm", "llm_compressed"]}},
)

# It learns which titles follow each other, then to read in both directions, then to tell items
# apart. Its frozen vectors feed an ordinary sequence network by a learned map, so a new item needs
# its text only. Other than in the paper, LoRA is trained in place of all weights, and each title of
# a history stands in a line of its own. The stages of the yes/no ranker are there too, for runs in
# which it orders what these vectors propose.
LLM2REC = Method(
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
