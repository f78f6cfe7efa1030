from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors
import torch
from tiny import tiny_model_folder, tiny_network
from train_toy import ToyWriter, toy_cases, toy_train

from trsr.errors import ConfigError
from trsr.models import ModelSettings, open_model
from trsr.models.token_tree.tree import answer_states
from trsr.training.adapter import Adapter, check_targets
from trsr.training.settings import TrainSettings


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
