"""The lean LoRA pass against PEFT's own: the same outputs and the same gradients."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from tiny import adapted

from trsr.models.hf.fused_lora import fuse_lora


def outcome(model: Any) -> tuple[Any, dict[str, Any]]:
    ids = torch.tensor([[3, 5, 7, 11, 13, 17], [2, 4, 6, 8, 10, 12]])
    logits = model(input_ids=ids).logits
    (logits.float().log_softmax(-1)[:, :, 7] * torch.linspace(0.1, 1, 6)).sum().backward()
    named = model.named_parameters()
    return logits.detach().float(), {n: p.grad for n, p in named if p.grad is not None}


@pytest.mark.parametrize("shape", ["llama", "qwen2", "gpt_neox"])
def test_equal_to_peft_in_fp32(shape: str) -> None:
    plain = adapted(shape, torch.float32)
    fast = copy.deepcopy(plain)
    assert fuse_lora(fast) > 0
    (one, slopes), (other, own) = outcome(plain), outcome(fast)
    assert torch.allclose(one, other, atol=1e-5)
    assert slopes.keys() == own.keys()
    for name, slope in slopes.items():
        assert torch.linalg.norm(slope - own[name]) <= 1e-5 * torch.linalg.norm(slope), name


def test_near_peft_in_bf16_with_gradients_in_fp32() -> None:
    plain = adapted("llama", torch.bfloat16)
    fast = copy.deepcopy(plain)
    fuse_lora(fast)
    (one, slopes), (other, own) = outcome(plain), outcome(fast)
    assert (one - other).abs().max() < 0.05 * one.abs().max()
    for name, slope in slopes.items():
        assert own[name].dtype == torch.float32
        assert torch.linalg.norm(slope - own[name]) <= 0.1 * torch.linalg.norm(slope), name


def test_dropout_stays_pefts_while_training() -> None:
    model = adapted("llama", torch.float32, dropout=0.5)
    fuse_lora(model)
    ids = torch.tensor([[3, 5, 7]])
    still = model.eval()(input_ids=ids).logits
    assert torch.equal(still, model(input_ids=ids).logits)
    torch.manual_seed(0)
    assert not torch.allclose(still, model.train()(input_ids=ids).logits)


def test_switched_off_and_merged_layers_are_pefts() -> None:
    model = adapted("llama", torch.float32)
    fuse_lora(model)
    ids = torch.tensor([[3, 5, 7]])
    tuned = model(input_ids=ids).logits
    with model.disable_adapter():
        plain = model(input_ids=ids).logits
    assert not torch.allclose(tuned, plain, atol=1e-3)
    assert torch.allclose(model.merge_and_unload()(input_ids=ids).logits, tuned, atol=1e-4)
