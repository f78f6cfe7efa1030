"""Tiny random models that see, with real processors, made offline, for tests of mechanics."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tiny import SPECIALS, TEXTS

SHAPES = ("smolvlm", "llava_next", "qwen2_vl")

_MARKS = {
    "smolvlm": ["<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"],
    "llava_next": ["<image>"],
    "qwen2_vl": ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"],
}
_TURN = "{{ '<|im_start|>' + message['role'] + '\n' }}"
_OPEN = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"


def _in_order(image: str) -> str:
    """A chat template that writes a message's parts in their order."""
    return (
        "{% for message in messages %}" + _TURN + "{% for part in message['content'] %}"
        "{% if part['type'] == 'text' %}{{ part['text'] }}{% else %}{{ '" + image + "' }}"
        "{% endif %}{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}" + _OPEN
    )


TEMPLATES = {
    "smolvlm": _in_order("<image>"),
    # as LLaVA's own: images come first, wherever they stand
    "llava_next": "{% for message in messages %}" + _TURN + "{% for part in message['content'] if "
    "part['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}{% for part in message['content'] if "
    "part['type'] == 'text' %}{{ part['text'] }}{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
    + _OPEN,
    "qwen2_vl": _in_order("<|vision_start|><|image_pad|><|vision_end|>"),
}


def tokenizer_for(shape: str) -> Any:
    """A byte-level BPE tokenizer with the marks of an architecture."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        special_tokens=[*SPECIALS, *_MARKS[shape]],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(TEXTS, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token=SPECIALS[0],
        eos_token=SPECIALS[2],
        pad_token=SPECIALS[0],
        extra_special_tokens=[SPECIALS[1], *_MARKS[shape]],
    )
    tokenizer.chat_template = TEMPLATES[shape]
    return tokenizer


def _text(width: int) -> dict[str, Any]:
    return {
        "vocab_size": 384,
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "initializer_range": 0.2,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }


def _smolvlm(tokenizer: Any, width: int) -> tuple[Any, Any]:
    import transformers as tf

    vision = {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": 2}
    vision |= {"num_attention_heads": 4, "image_size": 32, "patch_size": 8}
    config = tf.SmolVLMConfig(
        text_config=tf.LlamaConfig(**_text(width)).to_dict(),
        vision_config=vision,
        scale_factor=2,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=0,
        tie_word_embeddings=True,
    )
    size = {"longest_edge": 32}
    images = tf.SmolVLMImageProcessorPil(
        size={"longest_edge": 64}, max_image_size=size, do_image_splitting=True
    )
    return tf.SmolVLMForConditionalGeneration(config), images


def _llava_next(tokenizer: Any, width: int) -> tuple[Any, Any]:
    import transformers as tf

    vision = tf.CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=32,
        patch_size=8,
        projection_dim=width,
    )
    config = tf.LlavaNextConfig(
        vision_config=vision.to_dict(),
        text_config=tf.LlamaConfig(**_text(width)).to_dict(),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=[[32, 64], [64, 32], [64, 64]],
        vision_feature_layer=-1,
    )
    images = tf.LlavaNextImageProcessorPil(
        size={"shortest_edge": 32},
        crop_size={"height": 32, "width": 32},
        image_grid_pinpoints=[[32, 64], [64, 32], [64, 64]],
    )
    return tf.LlavaNextForConditionalGeneration(config), images


def _qwen2_vl(tokenizer: Any, width: int) -> tuple[Any, Any]:
    import transformers as tf

    number = tokenizer.convert_tokens_to_ids
    half = width // 8
    text = _text(width) | {
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [half - 2 * (half // 3), half // 3, half // 3],
        }
    }
    config = tf.Qwen2VLConfig(
        text_config=text,
        vision_config={
            "depth": 2,
            "embed_dim": width,
            "hidden_size": width,
            "num_heads": 4,
            "patch_size": 4,
            "mlp_ratio": 2,
        },
        image_token_id=number("<|image_pad|>"),
        video_token_id=number("<|video_pad|>"),
        vision_start_token_id=number("<|vision_start|>"),
        vision_end_token_id=number("<|vision_end|>"),
    )
    images = tf.Qwen2VLImageProcessorPil(
        patch_size=4, size={"shortest_edge": 256, "longest_edge": 64 * 64 * 4}
    )
    return tf.Qwen2VLForConditionalGeneration(config), images


PROCESSOR = {
    "smolvlm": {"processor_class": "SmolVLMProcessor", "image_seq_len": 4},
    "llava_next": {
        "processor_class": "LlavaNextProcessor",
        "patch_size": 8,
        "vision_feature_select_strategy": "default",
        "num_additional_image_tokens": 1,
    },
    "qwen2_vl": {"processor_class": "Qwen2VLProcessor"},
}
"""What stands in `processor_config.json`."""


def vision_folder(folder: Path, shape: str, *, width: int = 32, seed: int = 0) -> Path:
    """Writes a random model that sees, of some ten thousand numbers, with its processor's files.

    They are those of such a model on the hub.
    """
    import torch

    tokenizer = tokenizer_for(shape)
    make = {"smolvlm": _smolvlm, "llava_next": _llava_next, "qwen2_vl": _qwen2_vl}[shape]
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    network, images = make(tokenizer, width)
    torch.random.set_rng_state(state)
    for part in (network, tokenizer, images):
        part.save_pretrained(folder)
    (folder / "processor_config.json").write_text(json.dumps(PROCESSOR[shape]))
    return folder
