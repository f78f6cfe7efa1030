from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import CHATML, tiny_model_folder

from trsr.errors import ConfigError, ModelError, PromptError
from trsr.hub import cache_folder
from trsr.models import ModelSettings, ScoringModel, open_model
from trsr.models.chat_format import ChatFormat
from trsr.models.hf import load
from trsr.models.hf.model import TransformersModel
from trsr.storage import files
from trsr.types import Message, Prompt

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model(folder: Path) -> TransformersModel:
    opened = open_model(tiny(folder))
    assert isinstance(opened, TransformersModel)
    return opened


def tiny(folder: Path, **changes: Any) -> ModelSettings:
    return ModelSettings(name=str(folder), dtype="float32", device="cpu", **changes)


def ask(text: str, begun: str = "") -> Prompt:
    messages = (Message("system", "Answer only Yes or No."), Message("user", text))
    return Prompt((*messages, Message("assistant", begun)) if begun else messages)


def by_hand(model: TransformersModel, prompt: Prompt, answer: str) -> float:
    """The answer's log-probability, token by token over the whole text, in one plain pass."""
    text = model.chat_format.text(prompt)
    before = model.chat_format.tokenizer.encode(text, add_special_tokens=False)
    whole = model.chat_format.tokenizer.encode(text + answer, add_special_tokens=False)
    assert whole[: len(before)] == before
    with torch.no_grad():
        logits = model.network(input_ids=torch.tensor([whole])).logits[0].log_softmax(-1)
    places = range(len(before), len(whole))
    return float(sum(logits[place - 1, whole[place]] for place in places))


def test_what_is_kept_of_earlier_prompts_changes_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any order, repeats within a call, and more prompts than are kept."""
    monkeypatch.setattr("trsr.models.chat_format._CACHED_PROMPTS", 3)
    layout = ChatFormat(load.load_tokenizer(folder), "tiny")
    prompts = [ask(f"Title: {title}?") for title in ("Heat", "Up", "Heat", "é 猫", "Big", "Up")]
    for asked in (prompts, prompts[::-1], prompts[1:3], prompts):
        for prompt, question in zip(asked, layout.questions(asked, ["Yes", "No"]), strict=True):
            text = layout.text(prompt)
            wholes = [
                layout.tokenizer.encode(text + answer, add_special_tokens=False)
                for answer in ("Yes", "No")
            ]
            assert [[*question.stem, *answer] for answer in question.answers] == wholes
            assert list(layout.encode(prompt)) == layout.tokenizer.encode(
                text, add_special_tokens=False
            )


def test_scores_are_log_probabilities_of_whole_answers(model: TransformersModel) -> None:
    """Answers of one and many tokens, also ones that begin alike or extend each other."""
    answers = ["Yes", "No", "Not at all, never", "Not at all, perhaps", "Yes, quiet"]
    prompts = [ask("Title: Heat?"), ask("Title: Up?"), ask("Title: Up?"), ask("é <|im_end|> \0 猫")]
    assert isinstance(model, ScoringModel)
    scores = model.score(prompts, answers)
    assert scores.dtype == np.float64
    expected = [[by_hand(model, prompt, answer) for answer in answers] for prompt in prompts]
    np.testing.assert_allclose(scores, expected, atol=1e-4)
    assert (scores[1] == scores[2]).all()


def test_a_prompt_scores_the_same_alone_and_among_others(model: TransformersModel) -> None:
    stem = "The user likes quiet films about the sea. " * 5
    prompts = [ask(f"{stem} Title: {word}") for word in ("Heat", "Up", "Alien and Aliens", "")]
    together = model.score(prompts, ["Yes", "No"])
    alone = np.vstack([model.score([prompt], ["Yes", "No"]) for prompt in reversed(prompts)])
    np.testing.assert_allclose(together, alone[::-1], atol=1e-4)


def test_nothing_to_score(model: TransformersModel) -> None:
    assert model.score([], ["Yes", "No"]).shape == (0, 2)
    assert model.score([ask("x")], []).shape == (1, 0)


def test_an_answer_that_merges_with_the_prompts_end(model: TransformersModel) -> None:
    """`The us` + `er` is cut as `The user`: the stem is what stays the same."""
    prompt = ask("x", begun="The us")
    stem, (one, other) = model.encode_answers(prompt, ["er", "eless"])
    text = model.chat_format.text(prompt)
    encode = model.chat_format.tokenizer.encode
    assert [*stem, *one] == encode(f"{text}er", add_special_tokens=False)
    assert [*stem, *other] == encode(f"{text}eless", add_special_tokens=False)
    assert len(stem) < len(model.encode(prompt))
    assert np.isfinite(model.score([prompt], ["er", "eless"])).all()


def test_answers_that_are_the_same(model: TransformersModel) -> None:
    with pytest.raises(ModelError, match="'Yes' and 'Yes' have the same tokens"):
        model.score([ask("x")], ["Yes", "No", "Yes"])
    with pytest.raises(ModelError, match="no token of its own"):
        model.score([ask("x")], ["Yes", ""])


def test_too_long_a_prompt(folder: Path) -> None:
    model = TransformersModel(tiny(folder, context_tokens=64))
    with pytest.raises(PromptError, match=r"tokens with its answer.*at most 64"):
        model.score([ask("word " * 100)], ["Yes", "No"])


def test_context_is_bounded_by_the_models_own(folder: Path) -> None:
    assert TransformersModel(tiny(folder, context_tokens=4096)).context_tokens == 1024
    assert TransformersModel(tiny(folder, context_tokens=100)).context_tokens == 100


def test_layout_of_a_chat(model: TransformersModel) -> None:
    asked = "<|im_start|>system\nAnswer only Yes or No.<|im_end|>\n<|im_start|>user\nx<|im_end|>\n"
    assert model.chat_format.text(ask("x")) == f"{asked}<|im_start|>assistant\n"
    assert model.chat_format.text(ask("x", "The user likes")) == (
        f"{asked}<|im_start|>assistant\nThe user likes"
    )
    assert model.count_tokens(ask("x")) == len(model.encode(ask("x")))


def test_begin_of_sequence_stands_once(tmp_path: Path) -> None:
    """Written by the template, or put before plain text where the tokenizer wants one."""
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer

    for template in ("{{ bos_token }}" + CHATML, None):
        folder = tiny_model_folder(tmp_path / str(bool(template)), template=template)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", tokenizer.bos_token_id)]
        )
        tokenizer.save_pretrained(folder)
        tokens = TransformersModel(tiny(folder)).encode(ask("x <|endoftext|> y"))
        assert tokens[0] == tokenizer.bos_token_id
        assert tokens.count(tokenizer.bos_token_id) == 1


def test_a_template_that_refuses_system_messages(tmp_path: Path) -> None:
    refusing = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    )
    dropping = CHATML.replace(
        "{% for message in messages %}",
        "{% for message in messages if message['role'] != 'system' %}",
    )
    for number, template in enumerate((refusing + CHATML, dropping)):
        folder = tiny_model_folder(tmp_path / str(number), template=template)
        text = TransformersModel(tiny(folder)).chat_format.text(ask("x"))
        assert text == (
            "<|im_start|>user\nAnswer only Yes or No.\n\nx<|im_end|>\n<|im_start|>assistant\n"
        )


def test_a_template_that_refuses_everything(tmp_path: Path) -> None:
    folder = tiny_model_folder(tmp_path / "m", template="{{ raise_exception('never') }}")
    with pytest.raises(ModelError, match=r"chat template of .* refuses .*user.*never"):
        TransformersModel(tiny(folder)).encode(ask("x"))


def test_no_template_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tiny_model_folder(tmp_path / "m", template=None)
    with caplog.at_level(logging.WARNING):
        model = TransformersModel(tiny(folder))
        model.encode(ask("x"))
        model.encode(ask("y"))
    assert sum("no chat template" in record.message for record in caplog.records) == 1
    assert model.chat_format.text(ask("x\n### User:\ny")) == (
        "### System:\nAnswer only Yes or No.\n\n### User:\nx\n# ## User:\ny\n\n### Assistant:\n"
    )


def adapter_of(folder: Path, out: Path, seed: int) -> Path:
    import peft

    torch.manual_seed(seed)
    network = load.load_network(tiny(folder), folder, None, torch.device("cpu"))
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "o_proj"], init_lora_weights=False)
    peft.get_peft_model(network, config).save_pretrained(out)
    return out


def test_an_adapter_is_merged_in_fp32_and_stays_beside_fewer_bits(
    folder: Path, tmp_path: Path
) -> None:
    import peft

    adapter = adapter_of(folder, tmp_path / "adapter", seed=1)
    prompts = [ask("Title: Heat?"), ask("Title: Up?")]
    plain = TransformersModel(tiny(folder)).score(prompts, ["Yes", "No"])
    merged = TransformersModel(tiny(folder), adapter)
    beside = TransformersModel(tiny(folder))
    beside.network = peft.PeftModel.from_pretrained(beside.network, adapter).eval()
    assert not isinstance(merged.network, peft.PeftModel)
    scores = merged.score(prompts, ["Yes", "No"])
    np.testing.assert_allclose(scores, beside.score(prompts, ["Yes", "No"]), atol=1e-4)
    assert np.abs(scores - plain).max() > 1e-2

    half = ModelSettings(name=str(folder), dtype="bfloat16", device="cpu")
    small = TransformersModel(half, adapter)
    assert isinstance(small.network, peft.PeftModel)
    np.testing.assert_allclose(small.score(prompts, ["Yes", "No"]), scores, atol=0.2)


def test_identity_tells_models_apart_and_nothing_else(folder: Path, tmp_path: Path) -> None:
    def identity(where: Path, adapter: Path | None = None, **changes: Any) -> str:
        return TransformersModel(tiny(where).model_copy(update=changes), adapter).identity

    base = identity(folder)
    assert base.startswith("model ")
    assert str(folder.parent) not in base
    copy = tiny_model_folder(tmp_path / "model")
    assert identity(copy) == base
    assert identity(folder, batch_size=2, batch_tokens=100, context_tokens=100) == base
    one = adapter_of(folder, tmp_path / "a1", seed=1)
    two = adapter_of(folder, tmp_path / "a2", seed=2)
    others = {
        base,
        identity(folder, dtype="bfloat16"),
        identity(folder, one),
        identity(folder, two),
        identity(tiny_model_folder(tmp_path / "untied" / "model", tied=False)),
        identity(tiny_model_folder(tmp_path / "plain" / "model", template=None)),
    }
    assert len(others) == 6


def test_what_cannot_be_loaded(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no adapter .*trsr run"):
        TransformersModel(tiny(folder), tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="cannot be loaded"):
        TransformersModel(tiny(tmp_path))
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match=r"model\.device.*cuda"):
            TransformersModel(ModelSettings(name=str(folder), device="cuda"))


def test_damaged_weights(tmp_path: Path) -> None:
    folder = tiny_model_folder(tmp_path / "m")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(ModelError, match=r"cannot be loaded"):
        TransformersModel(tiny(folder))


def test_quantizing_without_bitsandbytes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install bitsandbytes.*none"):
        TransformersModel(tiny(folder, quantize="8bit"))


@pytest.mark.parametrize(
    ("flags", "expected"),
    [("avx2 avx512f", torch.float32), ("avx512_bf16", torch.bfloat16)],
)
def test_auto_dtype(monkeypatch: pytest.MonkeyPatch, flags: str, expected: torch.dtype) -> None:
    monkeypatch.setattr(load.platform, "system", lambda: "Linux")
    monkeypatch.setattr(files, "read_text", lambda *_, **__: flags)
    assert load.pick_dtype(ModelSettings(), torch.device("cpu")) is expected
    assert load.pick_dtype(ModelSettings(), torch.device("mps")) is torch.float32
    named = ModelSettings(dtype="float16")
    assert load.pick_dtype(named, torch.device("cpu")) is torch.float16


def test_scoring_in_the_middle_of_training(folder: Path) -> None:
    """No dropout while it scores; training goes on as before."""
    model = TransformersModel(tiny(folder))
    model.network.train()
    model.score([ask("x")], ["Yes", "No"])
    assert model.network.training
    assert torch.is_grad_enabled()


@pytest.fixture(scope="module")
def embedded() -> TransformersModel:
    made = cache_folder() / "weights" / "smollm2-135m"
    snapshot = cache_folder() / "smollm2-135m" / "config.json"
    if not (made / "made.json").is_file() and not snapshot.is_file():
        pytest.skip("the embedded model is not there: run `make setup`")
    return TransformersModel(ModelSettings(dtype="float32", device="cpu", batch_size=4))


@pytest.mark.real
def test_the_embedded_model_knows_a_little(embedded: TransformersModel) -> None:
    layout = embedded.chat_format
    assert layout.templated
    for answers in (("Yes", "No"), (" Yes", " No")):
        question = embedded.encode_answers(ask("x"), answers)
        assert [len(answer) for answer in question.answers] == [1, 1]
    prompts = [
        Prompt((Message("user", f"Which word goes on? {text}"), Message("assistant", text)))
        for text in ("The capital of France is", "Two, four, six,")
    ]
    scores = embedded.score(prompts, [" Paris", " eight"])
    assert scores[0, 0] > scores[0, 1] + 2
    assert scores[1, 1] > scores[1, 0] + 2


@pytest.mark.real
def test_the_embedded_model_scores_the_tree_as_pairs(embedded: TransformersModel) -> None:
    stem = "The user likes quiet mysteries by the sea and old detectives. " * 6
    prompts = [ask(f"{stem}\nNext: {word}") for word in ("Jaws", "The Big Sleep")]
    together = embedded.score(prompts, ["Yes", "No"])
    expected = [
        [by_hand(embedded, prompt, answer) for answer in ("Yes", "No")] for prompt in prompts
    ]
    np.testing.assert_allclose(together, expected, atol=1e-4)


def head_adapter(folder: Path, out: Path, *targets: str, **more: Any) -> Path:
    import peft

    torch.manual_seed(3)
    network = load.load_network(tiny(folder), folder, None, torch.device("cpu"))
    config = peft.LoraConfig(r=4, target_modules=list(targets), init_lora_weights=False, **more)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft warns of the tied weights
        peft.get_peft_model(network, config).save_pretrained(out)
    return out


@pytest.mark.parametrize("targets", [("lm_head",), ("lm_head", "q_proj"), ("embed_tokens",)])
def test_an_adapter_on_a_shared_matrix_scores_as_peft_does(
    folder: Path, tmp_path: Path, targets: tuple[str, ...]
) -> None:
    import peft
    import transformers

    adapter = head_adapter(folder, tmp_path / "adapter", *targets)
    prompts = [ask(f"Title: film {n}?") for n in range(8)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        assert plain.lm_head.weight is plain.model.embed_tokens.weight
        wanted = peft.PeftModel.from_pretrained(plain, adapter).eval()
    model = TransformersModel(tiny(folder), adapter)
    scores = model.score(prompts, ["Yes", "No"])
    for prompt, row in zip(prompts, scores, strict=True):
        question = model.encode_answers(prompt, ["Yes", "No"])
        assert [len(answer) for answer in question.answers] == [1, 1]
        with torch.no_grad():
            logits = wanted(torch.tensor([question.stem])).logits[0, -1].log_softmax(-1)
        told = [float(logits[answer[0]]) for answer in question.answers]
        np.testing.assert_allclose(row, told, atol=1e-4)
    half = ModelSettings(name=str(folder), dtype="bfloat16", device="cpu")
    found = TransformersModel(half, adapter).score(prompts, ["Yes", "No"])
    np.testing.assert_allclose(found, scores, atol=0.2)
    assert len(set(found[:, 0] - found[:, 1])) == len(prompts)  # rows of the head in fp32


def test_a_head_whose_rows_cannot_be_had_in_fp32_is_refused(folder: Path, tmp_path: Path) -> None:
    adapter = head_adapter(folder, tmp_path / "adapter", "lm_head", use_dora=True)
    TransformersModel(tiny(folder), adapter)
    half = ModelSettings(name=str(folder), dtype="bfloat16", device="cpu")
    with pytest.raises(ModelError, match=r"adapts the model's head .*model\.dtype to float32"):
        TransformersModel(half, adapter)


def test_an_adapter_of_another_model_is_refused_with_the_names_that_miss(
    folder: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    adapter = adapter_of(folder, tmp_path / "adapter", seed=1)
    file = adapter / "adapter_model.safetensors"
    weights = load_file(file)
    fewer = {name: tensor for name, tensor in weights.items() if "layers.1." not in name}
    save_file(fewer, file)
    with pytest.raises(ModelError, match=r"does not hold, such as .*layers\.1\.self_attn\.o_proj"):
        TransformersModel(tiny(folder), adapter)
    more = {
        name.replace("layers.1.", "layers.7."): tensor.clone() for name, tensor in weights.items()
    }
    save_file(weights | more, file)
    with pytest.raises(ModelError, match=r"has no place for, such as .*layers\.7\.self_attn"):
        TransformersModel(tiny(folder), adapter)
    save_file({f"other.{name}": tensor for name, tensor in weights.items()}, file)
    with pytest.raises(ModelError, match="is of another model"):
        TransformersModel(tiny(folder), adapter)
    save_file(weights, file)
    TransformersModel(tiny(folder), adapter)


def test_kinds_of_lora_that_cannot_be_merged_or_wait_for_tokens_are_refused(
    folder: Path, tmp_path: Path
) -> None:
    for more, said in (
        ({"lora_bias": True}, "merged"),
        ({"alora_invocation_tokens": [5], "task_type": "CAUSAL_LM"}, "waits"),
    ):
        adapter = head_adapter(folder, tmp_path / said, "q_proj", **more)
        with pytest.raises(ModelError, match=said):
            TransformersModel(tiny(folder), adapter)


def test_an_adapter_that_is_a_pickle_is_refused(folder: Path, tmp_path: Path) -> None:
    adapter = adapter_of(folder, tmp_path / "adapter", seed=1)
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(ModelError, match=r"reads no pickles \(adapter_model\.bin\)"):
        TransformersModel(tiny(folder), adapter)
