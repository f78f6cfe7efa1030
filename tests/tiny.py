"""A tiny random language model with a tokenizer of its own, for tests of mechanics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content']"
    " + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEXTS = [
    "The user likes quiet films about the sea and does not like loud ones.",
    "Does the user take the next item? Answer only Yes or No. Yes Yes Yes No No No",
    "system user assistant Title: Genres: Description: steel bolts, 12 mm, a pack of ten",
    "Summarize in one sentence what the user watched, oldest first, then stop.",
]


def tiny_network(
    shape: str = "llama", *, tied: bool = True, vocab: int = 320, seed: int = 0, width: int = 32
) -> Any:
    """A random causal language model of about 30,000 parameters, in evaluation mode.

    Args:
        shape: llama (grouped heads), qwen2 (biases), qwen3 (normed heads), mistral (sliding
            window of 12), gemma2 (alternating windows, capped logits), gemma3n (each layer's MLP
            of a width of its own) or gpt_neox.
        tied: Whether head and embedding are one matrix.
        vocab: Size of the vocabulary.
        seed: Seed of the weights.
        width: Size of the hidden states.
    """
    import torch
    import transformers as tf

    common = {
        "vocab_size": vocab,
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 1024,
        "tie_word_embeddings": tied,
        "initializer_range": 0.2,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    grouped = {**common, "num_key_value_heads": 2, "head_dim": 8}
    configs = {
        "llama": lambda: tf.LlamaConfig(**grouped),
        "qwen2": lambda: tf.Qwen2Config(**grouped),
        "qwen3": lambda: tf.Qwen3Config(**grouped),
        "mistral": lambda: tf.MistralConfig(**grouped, sliding_window=12),
        "gemma2": lambda: tf.Gemma2Config(
            **grouped, sliding_window=12, query_pre_attn_scalar=8, final_logit_softcapping=5.0
        ),
        "gemma3n": lambda: tf.Gemma3nTextConfig(
            **{**grouped, "intermediate_size": [2 * width, 3 * width]},
            vocab_size_per_layer_input=vocab,
            hidden_size_per_layer_input=8,
            laurel_rank=4,
            num_kv_shared_layers=0,
            layer_types=["full_attention"] * 2,
            activation_sparsity_pattern=[0.0] * 2,
        ),
        "gpt_neox": lambda: tf.GPTNeoXConfig(**common),
    }
    devices = torch.random.get_rng_state()
    torch.manual_seed(seed)
    kind = {"attn_implementation": "eager"} if shape == "gemma2" else {}
    network = tf.AutoModelForCausalLM.from_config(configs[shape](), **kind).eval()
    torch.random.set_rng_state(devices)
    return network


def adapted(shape: str, dtype: Any, dropout: float = 0.0) -> Any:
    """A tiny network with a LoRA adapter beside all its linear layers that changes its answers."""
    import peft
    import torch

    config = peft.LoraConfig(
        r=4,
        lora_alpha=12,
        lora_dropout=dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    torch.manual_seed(1)
    model = peft.get_peft_model(tiny_network(shape).to(dtype), config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def tiny_tokenizer(*, template: str | None = CHATML, texts: list[str] = TEXTS) -> Any:
    """A byte-level BPE tokenizer trained on a few sentences; any text comes back as it was."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=SPECIALS, initial_alphabet=alphabet, show_progress=False
    )
    inner.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token=SPECIALS[0],
        eos_token=SPECIALS[2],
        pad_token=SPECIALS[0],
        extra_special_tokens=SPECIALS[1:2],
    )
    tokenizer.chat_template = template
    return tokenizer


def tiny_model_folder(
    folder: Path, *, shape: str = "llama", tied: bool = True, template: str | None = CHATML
) -> Path:
    """Writes a tiny model with its tokenizer as a folder that a backend opens; the folder."""
    tokenizer = tiny_tokenizer(template=template)
    tiny_network(shape, tied=tied, vocab=len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
