"""OD-LLM (arXiv:2601.09306): the tuned ranking model, made smaller.

The paper compresses LC-Rec, which writes item codes; here the model is that of LLM-TRSR. A short
training after it is not the paper's.
"""

from trsr.methods import Method

METHOD = Method(
    name="od_llm",
    description="LLM-TRSR, and beside it the same model with linear layers as two thin ones",
    source="arXiv:2601.09306",
    stages=("prepare", "summarize", "train", "compress", "rank", "evaluate"),
    config={"rank": {"rankers": ["popular", "llm", "llm_compressed"]}},
)
