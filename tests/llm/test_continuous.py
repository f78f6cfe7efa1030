"""transformers' continuous batching: the texts that batches give, and an end to its thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from test_generate import SHORT, ask, opened, prompts, texts
from tiny import adapted, tiny_model_folder

from trsr.errors import ModelError, PromptError
from trsr.llm import Sampling
from trsr.llm.continuous import ContinuousGenerator
from trsr.llm.generate import Generator
from trsr.types import Message, Prompt

pytestmark = pytest.mark.usefixtures("one_thread")


def both(folder: Path, asked: list[Prompt], sampling: Sampling, **changes: Any) -> list[Any]:
    return [
        texts(opened(folder, batching=batching, **changes), asked, sampling)
        for batching in ("batches", "continuous")
    ]


@pytest.mark.parametrize("shape", ["llama", "qwen2", "gpt_neox", "mistral"])
def test_greedy_texts_are_those_of_batches(tmp_path: Path, shape: str) -> None:
    plain, found = both(tiny_model_folder(tmp_path / "m", shape=shape), prompts(), SHORT)
    assert found == plain
    assert len(set(found.values())) > 2


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(max_tokens=40, repetition_penalty=1.3, no_repeat_ngram=3),
        Sampling(max_tokens=12, temperature=1.3, top_p=0.9, seed=5),
    ],
    ids=["penalties", "drawn"],
)
def test_tokens_are_chosen_as_in_batches(folder: Path, sampling: Sampling) -> None:
    plain, found = both(folder, prompts(), sampling)
    assert found == plain
    assert found != texts(opened(folder), prompts(), SHORT)


@pytest.mark.parametrize("size", [1, 3, 32])
def test_how_many_are_under_way_changes_nothing(folder: Path, size: int) -> None:
    """Prompts that are read in several passes, and ones that wait for their turn."""
    plain, found = both(folder, prompts(), SHORT, batch_size=size, batch_tokens=64)
    assert found == plain


def test_a_plain_layout_ends_before_the_next_label(tmp_path: Path) -> None:
    plain, found = both(
        tiny_model_folder(tmp_path / "m", template=None), prompts(), Sampling(max_tokens=60)
    )
    assert found == plain


def test_its_thread_ends_when_nobody_listens(folder: Path) -> None:
    """And the network is as it was: its attention, its gradients."""
    model = opened(folder, batch_size=2, batching="continuous")
    attention, threads = model.network.config._attn_implementation, threading.active_count()
    read = []

    def feed() -> Iterator[Prompt]:
        for number in range(50):
            read.append(number)
            yield ask(f"film {number}")

    answers = model.generate(feed(), SHORT)
    next(answers)
    assert torch.is_grad_enabled()
    assert threading.active_count() > threads
    answers.close()
    assert threading.active_count() == threads
    assert len(read) <= 8
    assert model.network.config._attn_implementation == attention


def test_a_prompt_without_room(folder: Path) -> None:
    model = opened(folder, context_tokens=128, batching="continuous")
    threads = threading.active_count()
    with pytest.raises(PromptError, match=r"prompt 1 has \d+ tokens.*at most 128"):
        list(model.generate(iter([Prompt((Message("user", "a"),)), ask("word " * 80)]), SHORT))
    assert threading.active_count() == threads


def test_an_adapter_speaks(folder: Path) -> None:
    """PEFT's network takes part as it is, its adapter beside the weights."""
    layout, network = opened(folder).layout, adapted("llama", torch.float32).eval()
    network.generation_config.eos_token_id = layout.tokenizer.eos_token_id
    plain = dict(Generator(network, layout, 4, 512).answer(iter(prompts()), SHORT))
    found = dict(ContinuousGenerator(network, layout, 4, 512, 512).answer(iter(prompts()), SHORT))
    assert found == plain
    with network.disable_adapter():
        assert dict(Generator(network, layout, 4, 512).answer(iter(prompts()), SHORT)) != plain


def test_what_fails_within_is_told(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """In a sentence: transformers' own record of it has a traceback."""
    model = opened(folder, batching="continuous")

    def fail(*_: Any) -> None:
        raise ValueError("no memory for this")

    hook = model.network.lm_head.register_forward_hook(fail)
    with pytest.raises(ModelError, match="no memory for this"):
        list(model.generate(iter(prompts()), SHORT))
    hook.remove()
    assert "Traceback" not in capfd.readouterr().err
    assert len(texts(model, prompts(), SHORT)) == len(prompts())


def test_a_model_without_an_end_is_refused(folder: Path) -> None:
    model = opened(folder, batching="continuous")
    model.layout.tokenizer.eos_token = None
    model.network.generation_config.eos_token_id = None
    with pytest.raises(ModelError, match="set model.batching to batches"):
        list(model.generate(iter(prompts()), SHORT))
