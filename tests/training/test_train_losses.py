from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import adapted as tiny_adapted
from tiny import tiny_model_folder, tiny_network
from torch import Tensor
from train_toy import ToyWriter, toy_cases, toy_train

from trsr.errors import ConfigError
from trsr.models import ModelSettings, open_model
from trsr.models.hf.fused import fuse_layers
from trsr.models.token_tree.tree import answer_states
from trsr.training.adapter import Adapter, check_targets
from trsr.training.encode import EncodedCase
from trsr.training.losses import LOSSES, listwise_loss
from trsr.training.settings import TrainSettings

ANSWERS = {
    "one token each": ((5,), (9,)),
    "several tokens": ((5, 7, 11), (9, 6)),
    "the same start": ((5, 7), (5, 9, 4)),
    "one begins the other": ((5,), (5, 9)),
}


def encoded(seed: int, candidates: int, relevant: int, answers: Any) -> EncodedCase:
    draw = random.Random(seed)

    def tokens(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw.randrange(3, 300) for _ in range(draw.randint(low, high)))

    start = tokens(20, 40)
    prompts = [start + tokens(3, 12) for _ in range(candidates)]
    positive = [place < relevant for place in range(candidates)]
    return EncodedCase.of(f"case {seed}", prompts, [answers] * candidates, positive)


def adapted(dropout: float = 0.0) -> tuple[Any, Adapter]:
    network = tiny_network()
    adapter = Adapter(network, TrainSettings(dropout=dropout), "tiny", 0)
    for name, parameter in adapter.parameters.items():
        if "lora_B" in name:  # zero at first, which would hide half of the gradient
            torch.nn.init.normal_(parameter, std=0.1)
    return network, adapter


def plain_log_prob(network: Any, prompt: tuple[int, ...], answer: tuple[int, ...]) -> Tensor:
    """One plain forward pass a pair."""
    logits = network(torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
    places = range(len(prompt) - 1, len(prompt) + len(answer) - 1)
    return sum(
        (logits[at, token] for at, token in zip(places, answer, strict=True)), torch.zeros(())
    )


def plain_loss(name: str, network: Any, case: EncodedCase) -> Tensor:
    rows = list(zip(case.prompts, case.answers, case.positive, strict=True))
    if name == "answer":
        chosen = [plain_log_prob(network, p, yes if good else no) for p, (yes, no), good in rows]
        return -torch.stack(chosen).mean()
    if name == "listwise":
        scores = torch.stack(
            [
                plain_log_prob(network, p, yes) - plain_log_prob(network, p, no)
                for p, (yes, no), _ in rows
            ]
        )
        good = [scores[place] - scores.logsumexp(0) for place, row in enumerate(rows) if row[2]]
        return -torch.stack(good).mean()
    texts = [prompt + (yes if good else no) for prompt, (yes, no), good in rows]
    total = sum(plain_log_prob(network, text[:1], text[1:]) for text in texts)
    return -total / sum(len(text) - 1 for text in texts)


@pytest.mark.parametrize("words", ANSWERS)
@pytest.mark.parametrize("name", LOSSES)
def test_loss_and_gradient_are_those_of_computing_each_pair_alone(name: str, words: str):
    torch.manual_seed(1)
    network, adapter = adapted()
    cases = [
        encoded(seed, n, k, ANSWERS[words]) for seed, n, k in ((0, 4, 1), (1, 3, 2), (2, 2, 1))
    ]
    parameters = list(adapter.parameters.values())
    losses = LOSSES[name](network, cases, 4096)
    gradients = torch.autograd.grad(losses.sum(), parameters)
    plain = torch.stack([plain_loss(name, network, case) for case in cases])
    expected = torch.autograd.grad(plain.sum(), parameters)
    torch.testing.assert_close(losses, plain, rtol=1e-4, atol=1e-5)
    for found, wanted in zip(gradients, expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-5)
    assert max(float(gradient.abs().max()) for gradient in gradients) > 1e-3


@pytest.mark.parametrize("name", LOSSES)
def test_a_shared_prefix_is_computed_once(name: str):
    case = encoded(0, 5, 1, ANSWERS["one token each"])
    network, seen = tiny_network(), list[int]()
    network.model.embed_tokens.register_forward_hook(
        lambda _, inputs, __: seen.append(inputs[0].numel())
    )
    with torch.no_grad():
        LOSSES[name](network, [case], 4096)
    assert sum(seen) == case.distinct_tokens - len(case.rests)  # no answer is read, only judged


@pytest.mark.parametrize("name", LOSSES)
@settings(max_examples=10)
@given(order=st.permutations(range(4)), words=st.sampled_from(sorted(ANSWERS)))
def test_the_order_of_candidates_changes_nothing(name: str, order: list[int], words: str):
    network = tiny_network()
    case = encoded(3, 4, 2, ANSWERS[words])
    prompts = case.prompts
    moved = EncodedCase.of(
        case.id,
        [prompts[place] for place in order],
        [case.answers[place] for place in order],
        [case.positive[place] for place in order],
    )
    with torch.no_grad():
        one, other = LOSSES[name](network, [case], 4096), LOSSES[name](network, [moved], 4096)
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_listwise_is_the_logarithm_of_the_number_of_candidates_when_all_score_alike():
    case = EncodedCase.of("c", [(4, 5, 6)] * 5, [((7,), (8,))] * 5, [True] + [False] * 4)
    with torch.no_grad():
        found = LOSSES["listwise"](tiny_network(), [case], 4096)
    assert float(found) == pytest.approx(1.6094379, abs=1e-5)


def test_an_encoded_case_keeps_its_prompts_and_counts_shared_prefixes():
    prompts = [(1, 2, 3, 4), (1, 2, 9), (1, 2, 3, 5, 6)]
    case = EncodedCase.of("c", prompts, [((7,), (8,))] * 3, [False, True, False])
    assert case.prompts == prompts
    assert case.right == [(8,), (7,), (8,)]
    assert case.tokens == 15
    assert case.distinct_tokens == 10  # 1 2, 3, 4 8, 9 7, 5 6 8


def test_peft_alone_loads_the_adapter_and_scores_alike(tiny_model: Path, tmp_path: Path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    result = toy_train(tiny_model, tmp_path)
    assert result.adapter == tmp_path / "out"
    ours = open_model(ModelSettings(name=str(tiny_model), dtype="float32"), result.adapter)
    base = open_model(ModelSettings(name=str(tiny_model), dtype="float32"))
    plain = AutoModelForCausalLM.from_pretrained(tiny_model)
    theirs = PeftModel.from_pretrained(plain, result.adapter).eval()
    writer = ToyWriter()
    prompts = writer.rank(toy_cases(1)[0].query)
    found = ours.score(prompts, writer.answers)
    assert abs(found - base.score(prompts, writer.answers)).max() > 0.1
    for row, prompt in enumerate(prompts):
        stem, answers = ours.encode_answers(prompt, writer.answers)
        with torch.no_grad():
            logits = theirs(torch.tensor([stem])).logits[0, -1].log_softmax(-1)
        expected = [float(logits[answer[0]]) for answer in answers]
        assert found[row] == pytest.approx(expected, abs=1e-4)


def test_the_configuration_names_base_and_settings(tiny_model: Path, tmp_path: Path):
    toy_train(tiny_model, tmp_path, rank=4, alpha=8, targets=("q_proj", "down_proj"))
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tiny_model)
    assert (config["r"], config["lora_alpha"], config["bias"]) == (4, 8, "none")
    assert sorted(config["target_modules"]) == ["down_proj", "q_proj"]
    assert config["inference_mode"] is True
    assert config["task_type"] == "CAUSAL_LM"


def test_a_network_answers_as_before_until_it_has_learned():
    tokens = torch.arange(3, 20)[None]
    network = tiny_network()
    with torch.no_grad():
        before = network(tokens).logits
        Adapter(network, TrainSettings(), "tiny", 0)
        assert torch.equal(network.eval()(tokens).logits, before)


def test_adapter_weights_are_fp32_on_a_bf16_network_and_follow_the_seed():
    def make(seed: int) -> dict[str, torch.Tensor]:
        return Adapter(tiny_network().bfloat16(), TrainSettings(), "tiny", seed).weights()

    one, same, other = make(1), make(1), make(2)
    assert {tensor.dtype for tensor in one.values()} == {torch.float32}
    assert all(torch.equal(one[name], same[name]) for name in one)
    drawn = [name for name in one if "lora_A" in name]
    assert drawn
    assert not any(torch.equal(one[name], other[name]) for name in drawn)


@pytest.mark.parametrize(
    ("shape", "targets", "said"),
    [
        ("llama", ("q_prj", "k_proj"), r"'q_prj' is no linear layer .* near names: .*q_proj"),
        ("llama", ("query_key_value",), r".*; there are: down_proj, gate_proj, k_proj"),
        ("llama", ("lm_head",), r"'lm_head' is no linear layer"),
        ("llama", ("embed_tokens",), r"'embed_tokens' is no linear layer"),
        ("llama", ("proj",), r"'proj' is no linear layer"),
        ("llama", (), r"nothing is no linear layer"),
        ("gpt_neox", ("q_proj",), r".*; there are: dense, .*query_key_value"),
    ],
)
def test_targets_that_match_no_layer_are_refused(shape: str, targets: tuple[str, ...], said: str):
    with pytest.raises(ConfigError, match=rf"train\.targets: {said}"):
        check_targets(tiny_network(shape, tied=False), targets)


@pytest.mark.parametrize("targets", [("query_key_value", "dense"), ("attention.dense",)])
def test_fused_and_dotted_targets_are_trained(tmp_path: Path, targets: tuple[str, ...]):
    folder = tiny_model_folder(tmp_path / "neox", shape="gpt_neox", tied=False)
    result = toy_train(folder, tmp_path, targets=targets)
    # rank 8, two layers; query_key_value 32 → 96, dense 32 → 32
    assert result.parameters == (8 * (32 + 96) * 2 if len(targets) == 2 else 0) + 8 * 64 * 2
    assert result.losses[-1] < result.losses[0]


def test_only_the_upper_layers_are_adapted(tiny_model: Path, tmp_path: Path):
    toy_train(tiny_model, tmp_path, upper_layers=1)
    with safetensors.safe_open(tmp_path / "out" / "adapter_model.safetensors", "pt") as file:
        assert all(".layers.1." in name for name in file.keys())  # noqa: SIM118
    for count in (0, 1, 2):
        adapter = Adapter(tiny_network(), TrainSettings(upper_layers=count), "tiny", 0)
        layers = {name.split(".layers.")[1][0] for name in adapter.parameters}
        assert layers == ({"1"} if count == 1 else {"0", "1"})
    with pytest.raises(ConfigError, match=r"train\.upper_layers: 3 are asked for.* has 2 layers"):
        Adapter(tiny_network(), TrainSettings(upper_layers=3), "tiny", 0)


def test_an_adapter_of_upper_layers_learns_the_same_gradient(tiny_model: Path):
    """The upper layers' gradient does not depend on whether the lower ones are adapted too."""
    sequences = [(3, 5, 7, 9), (3, 5, 7, 11), (3, 5, 8, 2)]
    found = []
    for count in (0, 1):
        network = tiny_network()
        adapter = Adapter(network, TrainSettings(upper_layers=count, dropout=0), "tiny", 0)
        for name, parameter in adapter.parameters.items():
            torch.manual_seed(len(name))
            torch.nn.init.normal_(parameter, std=0.1 if ".layers.1." in name else 0.0)
        answer_states(network, sequences, batch_tokens=100).square().sum().backward()
        found.append({n: p.grad for n, p in adapter.parameters.items() if ".layers.1." in n})
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("shape", ["llama", "qwen2", "qwen3"])
def test_fused_norms_and_gates_give_the_same_gradient_and_keep_less(shape: str):
    cases = [encoded(number, 4, 1, ANSWERS["one token each"]) for number in range(3)]
    found = []
    for fuse in (False, True):
        network = tiny_adapted(shape, torch.float32).train()
        changed = fuse_layers(network) if fuse else 0
        kept: dict[int, int] = {}

        def pack(tensor: Any, kept: dict[int, int] = kept) -> Any:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = listwise_loss(network, cases, 4096)
        loss.sum().backward()
        lora = {n: p.grad for n, p in network.named_parameters() if p.requires_grad}
        found.append((changed, sum(kept.values()), loss, lora))
    (_, whole, wanted, gradients), (changed, less, loss, fused) = found
    assert changed == 2 * (3 + 2 * (shape == "qwen3")) + 1
    assert less < 0.95 * whole
    torch.testing.assert_close(loss, wanted, rtol=1e-5, atol=1e-6)
    for name, gradient in gradients.items():
        assert (fused[name] - gradient).norm() <= 1e-5 * gradient.norm(), name
