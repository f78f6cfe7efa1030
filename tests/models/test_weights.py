from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import adapted, tiny_model_folder

from trsr import hub
from trsr.errors import ModelError
from trsr.models import weights
from trsr.models.hf.fused import fuse_lora
from trsr.models.weights import file_digest, local_weights

WHOLE = "weights/smollm2-135m/made.json"


def test_a_folder_passes_through(tmp_path: Path) -> None:
    folder = tiny_model_folder(tmp_path / "model")
    assert local_weights(str(folder)) == folder


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no config\.json"):
        local_weights(str(tmp_path))


@pytest.mark.parametrize("name", ["./nothing", "/nothing/at/all", "~/nothing", "a/b/c"])
def test_a_missing_folder_is_not_taken_for_a_hub_id(name: str) -> None:
    with pytest.raises(ModelError, match="no model folder"):
        local_weights(name)


def test_a_name_that_nobody_knows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=r"smollm2-135m.*hub does not give it"):
        local_weights("nobody/nothing")
    with pytest.raises(ModelError, match="hub does not give it"):
        local_weights("not a name!")


def test_a_hub_snapshot_needs_no_conversion(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    snapshot = tiny_model_folder(tmp_path / "snapshot")
    monkeypatch.setattr(hub, "get", lambda name, **_: snapshot)
    assert local_weights("smollm2-135m", cache=tmp_path) == snapshot


def test_gguf_becomes_a_folder_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A real GGUF file of a tiny Llama: converted whole, atomically, and not again."""
    import torch
    import transformers as tf

    raw = tmp_path / "raw"
    raw.mkdir()
    gguf = raw / weights.GGUF["smollm2-135m"]
    expected = write_gguf(gguf)
    monkeypatch.setattr(hub, "get", lambda name, **_: raw)
    folder = local_weights("smollm2-135m", cache=tmp_path)

    made = json.loads((folder / "made.json").read_text())
    assert made["from"] == {gguf.name: file_digest(gguf)}
    assert made["sha256"]["model.safetensors"] == file_digest(folder / "model.safetensors")
    network = tf.AutoModelForCausalLM.from_pretrained(folder)
    assert network.dtype == torch.float32
    assert not hasattr(network.config, "quantization_config")
    torch.testing.assert_close(network.model.embed_tokens.weight, torch.tensor(expected))
    tokenizer = tf.AutoTokenizer.from_pretrained(folder)
    assert tokenizer.chat_template == "{{ messages }}"
    assert [path.name for path in folder.parent.iterdir() if path.name.startswith(".")] == []

    gguf.unlink()  # not read again
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert local_weights("smollm2-135m", cache=tmp_path) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == before


def test_a_broken_conversion_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / weights.GGUF["smollm2-135m"]).write_bytes(b"GGUF" + bytes(100))
    monkeypatch.setattr(hub, "get", lambda name, **_: tmp_path / "raw")
    with pytest.raises(ModelError, match=r"cannot be converted .* fetch it again"):
        local_weights("smollm2-135m", cache=tmp_path)
    assert [path.name for path in (tmp_path / "weights").iterdir()] == ["smollm2-135m.lock"]


def test_a_cache_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "weights").write_text("a file where a folder should be")
    monkeypatch.setattr(hub, "get", lambda name, **_: tmp_path / "raw")
    with pytest.raises(ModelError, match="TRSR_CACHE"):
        local_weights("smollm2-135m", cache=tmp_path)


def test_digests_are_remembered_but_never_stale(tmp_path: Path) -> None:
    path = tmp_path / "big.bin"
    path.write_bytes(bytes(2 << 20))
    first = file_digest(path, tmp_path / "cache")
    (note,) = (tmp_path / "cache" / "digests").iterdir()
    facts = json.loads(note.read_text())
    note.write_text(json.dumps({**facts, "sha256": "remembered"}))
    assert file_digest(path, tmp_path / "cache") == "remembered"
    note.write_text("{ broken")
    assert file_digest(path, tmp_path / "cache") == first
    path.write_bytes(b"\x01" + bytes((2 << 20) - 1))
    os.utime(path, ns=(1, 1))
    second = file_digest(path, tmp_path / "cache")
    assert second != first
    path.write_bytes(bytes(2 << 20))
    os.utime(path, ns=(1, 1))  # the same size and time
    assert file_digest(path, tmp_path / "cache") == first


def write_gguf(path: Path) -> list[list[float]]:
    """Writes a one-layer Llama as F32 GGUF; its embedding."""
    import gguf
    import numpy as np

    rng = np.random.default_rng(0)
    hidden, inner, vocab = 8, 16, 300
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(4)
    writer.add_vocab_size(vocab)
    writer.add_tokenizer_model("gpt2")
    letters = [chr(code) for code in range(33, 127)]
    tokens = ["<|endoftext|>", *letters, "ab"] + [f"w{i}" for i in range(vocab - len(letters) - 2)]
    writer.add_token_list(tokens)
    writer.add_token_types([3] + [1] * (vocab - 1))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_chat_template("{{ messages }}")
    shapes = {
        "token_embd.weight": (vocab, hidden),
        "blk.0.attn_q.weight": (hidden, hidden),
        "blk.0.attn_k.weight": (hidden, hidden),
        "blk.0.attn_v.weight": (hidden, hidden),
        "blk.0.attn_output.weight": (hidden, hidden),
        "blk.0.ffn_gate.weight": (inner, hidden),
        "blk.0.ffn_up.weight": (inner, hidden),
        "blk.0.ffn_down.weight": (hidden, inner),
        "blk.0.attn_norm.weight": (hidden,),
        "blk.0.ffn_norm.weight": (hidden,),
        "output_norm.weight": (hidden,),
    }
    made = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    for name, values in made.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    embedding: list[list[float]] = made["token_embd.weight"].tolist()
    return embedding


# --- The lean LoRA pass against PEFT's own: the same outputs and the same gradients


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
