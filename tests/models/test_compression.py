"""Compressed models: the algebra, the checkpoint, and the same scores on every path."""

from __future__ import annotations

import copy
import importlib.util
import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from stopping import StopHereError, Stopping
from tiny import tiny_network
from trees import forest, pairwise

from trsr.errors import ModelError
from trsr.models.hf import low_rank
from trsr.models.hf.compression import Compressed, Spectrum, _compressible, compress, rows_of
from trsr.models.settings import CompressSettings
from trsr.models.token_tree import packed
from trsr.models.token_tree.kv_cache import decoder_of
from trsr.models.token_tree.tokens import distinct_tokens
from trsr.models.token_tree.tree import answer_states

pytestmark = pytest.mark.usefixtures("one_thread")


def prompts(cases: int = 8, seed: int = 0) -> list[list[tuple[int, ...]]]:
    """Cases of four prompts each, which share an instruction and then the case's user."""
    rng = random.Random(seed)

    def drawn(count: int) -> tuple[int, ...]:
        return tuple(rng.choices(range(3, 300), k=count))

    start = drawn(6)
    users = [start + drawn(12) for _ in range(cases)]
    return [[user + drawn(rng.randrange(2, 6)) for _ in range(4)] for user in users]


def compressed(folder: Path, shape: str = "llama", **settings: Any) -> tuple[Any, Compressed]:
    network = tiny_network(shape)
    folder.mkdir(exist_ok=True)
    return network, compress(network, prompts(), CompressSettings(**settings), folder)


def logits(network: Any) -> torch.Tensor:
    with torch.no_grad():
        return network(torch.tensor([prompts()[0][0]])).logits


@pytest.mark.parametrize(("out", "into"), [(12, 30), (30, 12), (16, 16)])
def test_it_is_the_whitened_truncation_without_a_whitening_matrix(out: int, into: int) -> None:
    torch.manual_seed(0)
    weight = torch.randn(out, into, dtype=torch.float64)
    inputs = torch.randn(into, 200, dtype=torch.float64) * torch.logspace(-2, 2, into)[:, None]
    gram, rank = inputs @ inputs.T, 7
    factor = torch.linalg.cholesky(gram)
    inverse = torch.linalg.inv(factor)
    torch.testing.assert_close(inverse @ gram @ inverse.T, torch.eye(into, dtype=torch.float64))
    u, s, v = torch.linalg.svd(weight @ factor, full_matrices=False)
    expected = u[:, :rank] @ torch.diag(s[:rank]) @ v[:rank] @ inverse

    found = Spectrum.of(weight, gram)
    made = found.vectors[:, :rank] @ found.rows[:rank]
    torch.testing.assert_close(made, expected, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(found.energies, s.square())
    lost = (weight @ inputs - made @ inputs).square().sum()
    torch.testing.assert_close(lost, s[rank:].square().sum())
    assert found.lost(rank) == pytest.approx(float(lost / (weight @ inputs).square().sum()))


def test_inputs_of_low_rank_do_no_harm() -> None:
    torch.manual_seed(0)
    weight = torch.randn(10, 20, dtype=torch.float64)
    inputs = torch.randn(20, 6, dtype=torch.float64) @ torch.randn(6, 50, dtype=torch.float64)
    found = Spectrum.of(weight, inputs @ inputs.T)
    made = found.vectors[:, :6] @ found.rows[:6]
    torch.testing.assert_close(made @ inputs, weight @ inputs)
    assert torch.isfinite(made).all()


@pytest.mark.parametrize("shape", ["llama", "qwen2", "qwen3", "gpt_neox"])
def test_full_rank_changes_nothing(tmp_path: Path, shape: str) -> None:
    network = tiny_network(shape)
    before = logits(network)
    full = CompressSettings.model_construct(ratio=2.0, cases=8, align="outputs", ranks="even")
    made = compress(network, prompts(), full, tmp_path)
    assert len(made.ranks) == (8 if shape == "gpt_neox" else 14)
    torch.testing.assert_close(logits(network), before, atol=1e-4, rtol=0)


@pytest.mark.parametrize("align", ["inputs", "outputs"])
def test_alignment_never_raises_a_layers_error(tmp_path: Path, align: str) -> None:
    _, made = compressed(tmp_path, ratio=0.6, align=align)
    assert all(after <= before + 1e-6 for _, before, after in made.losses.values())
    gains = [before - after for _, before, after in made.losses.values()]
    assert sum(gain > 1e-3 for gain in gains) >= 8
    # nothing is compressed before the first layer's first inputs: there is nothing to make up for
    first = made.losses["model.layers.0.self_attn.q_proj"]
    assert first[0] == pytest.approx(first[2], abs=1e-6)


def test_more_is_kept_less_is_lost(tmp_path: Path) -> None:
    whole = logits(tiny_network())
    errors = []
    for ratio in (0.3, 0.6, 0.9, 0.98):
        network, _ = compressed(tmp_path / str(ratio), ratio=ratio)
        errors.append(float((logits(network) - whole).square().mean()))
    assert errors == sorted(errors, reverse=True)


def test_own_prompts_calibrate_better_than_random_tokens(tmp_path: Path) -> None:
    """On tokens of few kinds, a model is compressed for these."""
    network, rng = tiny_network(), random.Random(1)
    own = [[tuple(rng.choices(range(3, 15), k=30))] for _ in range(20)]
    other = [[tuple(rng.choices(range(3, 300), k=30))] for _ in range(20)]
    errors = []
    for name, cases in (("own", own[:12]), ("other", other)):
        made = copy.deepcopy(network)
        (tmp_path / name).mkdir()
        compress(made, cases, CompressSettings(ratio=0.5), tmp_path / name)
        ids = torch.tensor([case[0] for case in own[12:]])
        with torch.no_grad():
            errors.append(float((made(ids).logits - network(ids).logits).square().mean()))
    assert errors[0] < 0.8 * errors[1]


def test_a_row_is_its_prompts_each_alone() -> None:
    decoder = decoder_of(tiny_network())
    cases = prompts(3)
    cases[1].append(cases[1][0][:-1])  # one prompt that others go on from
    rows = rows_of(cases)
    with torch.no_grad():
        for case, row in zip(cases, rows, strict=True):
            states = decoder(
                torch.tensor([row.ids]),
                position_ids=torch.tensor([row.positions]),
                attention_mask=row.mask,
            ).last_hidden_state[0]
            for number, prompt in enumerate(sorted(set(case))):
                alone = decoder(torch.tensor([prompt])).last_hidden_state[0]
                own = states[row.begins[number] : row.begins[number + 1]]
                expected = alone[row.begins[0] :]
                torch.testing.assert_close(own, expected, atol=1e-5, rtol=0)
    # the instruction, which all cases begin with, counts once
    every = [prompt for case in cases[::2] for prompt in case]
    two = rows_of(cases[::2])
    assert sum(len(row.ids) - row.known for row in two) == distinct_tokens(every)


def test_ranks_and_size_are_as_predicted(tmp_path: Path) -> None:
    network = tiny_network()
    before = sum(one.numel() for one in network.parameters())
    shapes = {
        name: tuple(one.weight.shape)
        for name, one in network.named_modules()
        if type(one) is torch.nn.Linear and name != "lm_head"
    }
    assert shapes["model.layers.0.self_attn.k_proj"] == (16, 32)  # two heads of four, size 8
    made = compress(network, prompts(), CompressSettings(ratio=0.5), tmp_path)
    assert made.ranks == {n: int(0.5 * m * k / (m + k)) for n, (m, k) in shapes.items()}
    saved = sum(m * k - made.ranks[n] * (m + k) for n, (m, k) in shapes.items())
    low_rank.save(network, tmp_path)
    numbers = sum(one.numel() for one in load_file(tmp_path / low_rank.WEIGHTS).values())
    assert numbers == sum(one.numel() for one in network.parameters()) == before - saved
    pair = network.get_submodule("model.layers.0.self_attn.k_proj")
    assert [tuple(one.weight.shape) for one in pair] == [(5, 32), (16, 5)]


def test_ranks_by_loss_spend_the_same(tmp_path: Path) -> None:
    network, even = compressed(tmp_path / "even", ratio=0.5)
    other, made = compressed(tmp_path / "other", ratio=0.5, ranks="by_loss")
    sizes = [sum(one.numel() for one in each.parameters()) for each in (network, other)]
    assert made.ranks != even.ranks
    assert min(made.ranks.values()) >= 1
    assert 0.97 * sizes[0] < sizes[1] < 1.03 * sizes[0]
    lost = [sum(one[0] for one in each.losses.values()) for each in (even, made)]
    assert lost[1] < lost[0]


def test_ranks_by_loss_are_few(tmp_path: Path) -> None:
    made = compressed(tmp_path, ratio=0.5, ranks="by_loss")[1]
    narrow = {rank for name, rank in made.ranks.items() if name.endswith(("k_proj", "v_proj"))}
    others = set(made.ranks.values()) - narrow
    assert narrow <= {2, 4, 6, 8}  # of 10, from which on a layer stays whole
    assert others <= {4, 8, 12, 16, 20}
    assert len(narrow | others) > 1


def test_filler_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, _ = compressed(tmp_path, ratio=0.5)
    trees = prompts()
    every = [prompt for case in trees for prompt in case]
    network.requires_grad_(True)

    def found() -> tuple[torch.Tensor, list[torch.Tensor]]:
        states = answer_states(network, every, batch_tokens=200)
        weights = [one for name, one in network.named_parameters() if "layers" in name]
        return states, list(torch.autograd.grad(states.square().sum(), weights))

    states, gradients = found()
    monkeypatch.setattr(packed, "_is_compiled_often", lambda decoder: True)
    lengths: list[int] = []
    network.model.layers[0].register_forward_pre_hook(
        lambda _, given: lengths.append(given[0].shape[1])
    )
    filled, others = found()
    assert all(length % packed.ROWS == 0 for length in lengths)
    torch.testing.assert_close(filled, states, atol=1e-5, rtol=1e-5)
    for one, other in zip(gradients, others, strict=True):
        torch.testing.assert_close(other, one, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("shape", "tied"), [("llama", True), ("qwen2", False), ("gpt_neox", True)])
def test_saved_and_loaded_it_is_the_same(tmp_path: Path, shape: str, tied: bool) -> None:
    network = tiny_network(shape, tied=tied)
    (tmp_path / "state").mkdir()
    compress(network, prompts(), CompressSettings(ratio=0.5), tmp_path / "state")
    low_rank.save(network, tmp_path)
    loaded = low_rank.load(tmp_path, torch.float32)
    assert torch.equal(logits(loaded), logits(network))
    head, table = loaded.get_output_embeddings().weight, loaded.get_input_embeddings().weight
    assert (head is table) == tied
    ranks = json.loads((tmp_path / low_rank.LOW_RANK).read_text())
    assert ranks == low_rank.ranks_of(network) == low_rank.ranks_of(loaded)
    assert not any(one.is_meta for one in (*loaded.parameters(), *loaded.buffers()))
    dense = low_rank.multiplied(copy.deepcopy(network))
    assert low_rank.ranks_of(dense) == {}
    torch.testing.assert_close(logits(dense), logits(network), atol=1e-4, rtol=0)


def test_readers_who_know_no_factors_refuse_it(tmp_path: Path) -> None:
    network, _ = compressed(tmp_path, ratio=0.5)
    low_rank.save(network, tmp_path)
    with pytest.raises(OSError, match="no file named model.safetensors"):
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path)


def damaged(change: str) -> Any:
    def make(folder: Path) -> None:
        tensors = load_file(folder / low_rank.WEIGHTS)
        name = "model.layers.0.mlp.up_proj.1.weight"
        ranks = json.loads((folder / low_rank.LOW_RANK).read_text())
        match change:
            case "missing":
                del tensors[name]
            case "surplus":
                tensors["model.layers.0.mlp.up_proj.2.weight"] = tensors[name].clone()
            case "shape":
                tensors[name] = tensors[name][:-1].clone()
            case "rank":
                ranks["model.layers.0.mlp.up_proj"] += 1
            case "no layer":
                ranks["model.layers.7.mlp.up_proj"] = 3
            case "no rank":
                ranks["model.layers.0.mlp.up_proj"] = "3"
        save_file(tensors, folder / low_rank.WEIGHTS)
        (folder / low_rank.LOW_RANK).write_text(json.dumps(ranks))

    return make


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing", "lacks 1 tensors, such as model.layers.0.mlp.up_proj.1.weight"),
        ("surplus", "has no place for 1 tensors"),
        ("shape", "size mismatch"),
        ("rank", "size mismatch"),
        ("no layer", "no linear layer model.layers.7.mlp.up_proj"),
        ("no rank", "not ranks by layer"),
    ],
)
def test_another_checkpoint_is_refused(tmp_path: Path, change: str, message: str) -> None:
    network, _ = compressed(tmp_path, ratio=0.5)
    low_rank.save(network, tmp_path)
    damaged(change)(tmp_path)
    with pytest.raises(ModelError, match=message):
        low_rank.load(tmp_path, torch.float32)


@pytest.mark.parametrize("shape", ["llama", "qwen2", "qwen3", "gpt_neox"])
@pytest.mark.parametrize("path", ["packed", "padded", "openvino"])
def test_every_path_gives_the_same(
    tmp_path: Path, shape: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if path == "openvino" and (shape == "gpt_neox" or importlib.util.find_spec("openvino") is None):
        pytest.skip("the compiled pass takes Llama and Qwen, with the extra 'openvino'")
    network, _ = compressed(tmp_path, shape, ratio=0.5)
    sequences = forest(random.Random(2), depth=3)
    packed = None
    if path == "openvino":
        from trsr.models.openvino.compiled import CompiledPass

        packed = CompiledPass(network)
    if path == "padded":
        monkeypatch.setattr("trsr.models.token_tree.tree.can_pack", lambda decoder: False)
    with torch.no_grad():
        states = answer_states(network, sequences, batch_tokens=10_000, packed=packed)
        found = network.get_output_embeddings()(states)
        torch.testing.assert_close(found, pairwise(network, sequences), atol=1e-4, rtol=0)


@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="needs openvino")
@pytest.mark.parametrize(("bits", "near"), [(8, 0.1), (4, 0.7)])
def test_a_compiled_pass_in_fewer_bits_is_that_of_rounded_weights(bits: int, near: float) -> None:
    from trsr.models.openvino.compiled import CompiledPass
    from trsr.models.openvino.graph import rounded

    network = tiny_network()
    packed = CompiledPass(network, bits)
    sequences = forest(random.Random(2), depth=3)
    with torch.no_grad():
        whole = pairwise(network, sequences)
    for module in decoder_of(network).layers.modules():
        if type(module) is torch.nn.Linear:
            codes, scales = rounded(module.weight.detach().numpy(), bits)
            assert abs(codes).max() == 2 ** (bits - 1) - 1
            close = torch.from_numpy(codes * scales).reshape(module.weight.shape)
            assert (close - module.weight).abs().max() <= scales.max() / 2 * 1.001
            module.weight.data = close
    with torch.no_grad():
        states = answer_states(network, sequences, batch_tokens=10_000, packed=packed)
        found = network.get_output_embeddings()(states)
        torch.testing.assert_close(found, pairwise(network, sequences), atol=2e-3, rtol=1e-3)
        assert 0 < float((found - whole).norm() / whole.norm()) < near


def test_what_was_stopped_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    settings = {"ratio": 0.5, "ranks": "by_loss"}
    whole, expected = compressed(tmp_path / "whole", **settings)

    state = tmp_path / "state"
    state.mkdir()
    progress = Stopping(3)
    with pytest.raises(StopHereError):
        compress(tiny_network(), prompts(), CompressSettings(**settings), state, progress)
    assert progress.begun == [(4, "layers")]
    assert sorted(path.name for path in state.iterdir()) == ["0.safetensors", "ranks.json"]
    network = tiny_network()
    made = compress(network, prompts(), CompressSettings(**settings), state)
    assert torch.equal(logits(network), logits(whole))
    assert made.losses == expected.losses
    assert made.ranks == expected.ranks


def test_what_cannot_be_compressed_is_refused(tmp_path: Path) -> None:
    settings = CompressSettings(ratio=0.5)
    with pytest.raises(ModelError, match=r"30 distinct tokens, fewer than a layer has inputs \(64"):
        compress(tiny_network(), [[tuple(range(3, 33))]], settings, tmp_path)
    broken = tiny_network()
    broken.model.layers[1].self_attn.o_proj.weight.data[0, 0] = torch.inf
    with pytest.raises(ModelError, match=r"model\.layers\.1\.self_attn\.o_proj are not finite"):
        compress(broken, prompts(), settings, tmp_path)
    with pytest.raises(ModelError, match="sliding_attention"):
        compress(tiny_network("gemma2"), prompts(), settings, tmp_path)
    with pytest.raises(ModelError, match="sliding_attention"):
        compress(tiny_network("mistral"), prompts(), settings, tmp_path)
    with pytest.raises(ModelError, match="too small for this ratio"):
        compress(tiny_network(), prompts(), CompressSettings(ratio=0.01), tmp_path)
    config = transformers.GPT2Config(vocab_size=320, n_embd=32, n_layer=1, n_head=4)
    gpt2 = transformers.AutoModelForCausalLM.from_config(config).eval()
    with pytest.raises(ModelError, match=r"h\.0\.attn\.c_attn: a Conv1D, not a linear layer"):
        compress(gpt2, prompts(), settings, tmp_path)


def test_a_mixture_of_experts_stays_whole() -> None:
    config = transformers.MixtralConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=2,
    )
    network = transformers.AutoModelForCausalLM.from_config(config)
    found, whole = _compressible(network.model.layers[0], 0.5)
    assert sorted(found) == [f"self_attn.{name}_proj" for name in "koqv"]
    assert whole["mlp.experts"] == "part of a mixture of experts"
