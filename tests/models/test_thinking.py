"""What follows a model's thinking, and what a cut one leaves: nothing, counted and said."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import CHATML, tiny_model_folder, tiny_tokenizer

from trsr.models.base import Sampling
from trsr.models.chat_format import ChatFormat
from trsr.models.settings import ModelSettings, open_model
from trsr.models.thinking import after_thinking, thinks
from trsr.types import Message, Prompt

GOOD = "This user prefers cordless tools."
FAMILIES = {
    "Qwen, DeepSeek, GLM": "<think>\nOkay, a drill.\n</think>\n\n{}",
    "Phi, EXAONE Deep": "<thought>\nOkay</thought>{}",
    "Magistral": "[THINK]Okay[/THINK]{}",
    "Kimi-VL": "◁think▷Okay◁/think▷{}",
    "Seed-OSS": "<seed:think>Okay</seed:think>{}",
    "LongCat": "<longcat_think>Okay</longcat_think>{}",
    "Command A": "<|START_THINKING|>Okay<|END_THINKING|><|START_RESPONSE|>{}<|END_RESPONSE|>",
    "gpt-oss": "<|channel|>analysis<|message|>Okay<|end|><|start|>assistant<|channel|>final"
    "<|message|>{}<|return|>",
    "Gemma 4": "<|channel>thought\nOkay<channel|>{}",
    "Apertus": "<|inner_prefix|>Okay<|inner_suffix|>{}",
    "Hunyuan": "<think>Okay</think>\n<answer>\n{}\n</answer>",
    "Sky-T1": "<|begin_of_thought|>Okay<|end_of_thought|><|begin_of_solution|>{}"
    "<|end_of_solution|>",
    "opened by the template": "Okay, a drill.</think>\n{}",
    "twice": "<think>a</think>{} <think>b",
}


@pytest.mark.parametrize("family", FAMILIES)
def test_what_follows_the_thinking_is_the_text(family: str) -> None:
    assert after_thinking(FAMILIES[family].format(GOOD)) == (GOOD, False)


@pytest.mark.parametrize("family", [name for name in FAMILIES if name[0].isupper()])
def test_a_thinking_that_was_cut_leaves_nothing(family: str) -> None:
    whole = FAMILIES[family].format("")
    cut = whole[: whole.index("Okay") + 4]
    assert after_thinking(cut) == ("", True)
    assert after_thinking(f"{GOOD} {cut}") == (GOOD, False)


@given(st.text(alphabet="abc <>/[]|.,!\n", max_size=60))
def test_a_text_without_marks_stays_as_it_is(text: str) -> None:
    assert after_thinking(text) == (text, False)


def test_a_prompt_that_opens_the_thinking_is_known_by_its_end() -> None:
    assert thinks("<|im_start|>assistant\n<think>\n") == "<think>"
    for closed in ("<|im_start|>assistant\n<think>\n\n</think>\n\n", "<think> is a mark", "", "x"):
        assert thinks(closed) == ""


OPENING = CHATML.replace("assistant\n", "assistant\n<think>\n")


def test_special_tokens_that_tell_thinking_from_answer_are_read() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["[THINK]", "[/THINK]"], special_tokens=True)
    layout = ChatFormat(tokenizer, "tiny")
    tokens = tokenizer.encode("[THINK]quiet films[/THINK] the sea<|im_end|>")
    assert layout.decode((), tokens) == "[THINK]quiet films[/THINK] the sea"


def test_a_local_model_whose_template_opens_the_thinking(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It never closes it: no text, and the log says what to do."""
    assert OPENING != CHATML
    folder = tiny_model_folder(tmp_path / "tiny", template=OPENING)
    model = open_model(ModelSettings(name=str(folder), dtype="float32", device="cpu"))
    prompts = [Prompt((Message("user", f"films {n}"),)) for n in range(3)]
    with caplog.at_level(logging.WARNING):
        texts = dict(model.generate(prompts, Sampling(max_tokens=4)))
    assert texts == {0: "", 1: "", 2: ""}
    assert "3 answers hold no text, still thinking after 4 tokens" in caplog.text
    assert "raise summarize.sampling.max_tokens" in caplog.text
