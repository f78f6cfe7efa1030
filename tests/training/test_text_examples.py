"""Training on texts, and the merged checkpoint: what was taught is written, and ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny import CHATML, tiny_tokenizer

from trsr.errors import ConfigError, DataError
from trsr.models import ModelSettings, open_model
from trsr.models.base import Sampling
from trsr.models.chat_format import ChatFormat
from trsr.models.hf.load import write_merged
from trsr.progress import Silent
from trsr.training.encode import TextExample
from trsr.training.settings import TrainSettings
from trsr.training.start import train_on_texts
from trsr.types import Message, Prompt

TAUGHT = {"bolt": "quiet films.", "lamp": "steel bolts, a pack."}


def prompt(word: str, begun: str = "The user likes") -> Prompt:
    return Prompt(
        (
            Message("system", "Summarize in one sentence."),
            Message("user", f"- Title: {word}"),
            Message("assistant", begun),
        )
    )


def texts(complete: bool = True) -> list[TextExample]:
    return [TextExample(word, prompt(word), f" {text}", complete) for word, text in TAUGHT.items()]


def settings_of(model: Path) -> ModelSettings:
    return ModelSettings(name=str(model), dtype="float32", device="cpu")


def taught(model: Path, folder: Path, found: list[TextExample], **more: Any) -> Any:
    own = {
        "epochs": 60,
        "learning_rate": 2e-2,
        "cases_per_step": 2,
        "warmup_steps": 5,
        "dropout": 0.0,
    }
    own |= {"rank": 16, "alpha": 32, "targets": ("q_proj", "v_proj", "up_proj", "down_proj")}
    return train_on_texts(
        lambda opened: found,
        model=settings_of(model),
        settings=TrainSettings(**{**own, **more}),
        seed=1,
        out=folder / "adapter",
        state=folder / "state",
        progress=Silent(),
    )


def written_by(model: Any, words: Any, most: int = 40) -> list[str]:
    found = dict(model.generate([prompt(word) for word in words], Sampling(max_tokens=most)))
    return [found[place] for place in range(len(found))]


@pytest.fixture(scope="module")
def trained(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("written")
    return folder, taught(tiny_model, folder, texts())


def test_the_model_writes_what_it_was_taught_and_ends_there(tiny_model: Path, trained: Any):
    folder, result = trained
    # a random head tells tokens apart only so far: what counts is what is written
    assert result.losses[-1] < 1 < result.losses[0]
    model = open_model(settings_of(tiny_model), folder / "adapter")
    assert written_by(model, TAUGHT) == [f" {text}" for text in TAUGHT.values()]


def test_the_merged_checkpoint_writes_what_base_and_adapter_write(
    tiny_model: Path, trained: Any, tmp_path: Path
):
    folder, _ = trained
    write_merged(settings_of(tiny_model), folder / "adapter", tmp_path / "merged")
    merged = open_model(settings_of(tmp_path / "merged"))
    beside = open_model(settings_of(tiny_model), folder / "adapter")
    words = ["bolt", "lamp", "sea", "a loud film", "12 mm"]
    assert written_by(merged, words, 12) == written_by(beside, words, 12)
    assert written_by(merged, words, 12) != written_by(
        open_model(settings_of(tiny_model)), words, 12
    )
    one, other = (m.score([prompt("sea")], [" quiet", " loud"]) for m in (merged, beside))
    assert one == pytest.approx(other, abs=1e-5)


def test_the_first_loss_is_the_mean_of_the_texts_tokens_and_of_the_end(
    tiny_model: Path, tmp_path: Path
):
    import torch

    (one,) = texts()[:1]
    opened = open_model(settings_of(tiny_model))
    for complete in (True, False):
        examples = [TextExample("q", one.prompt, one.text, complete)]
        result = taught(tiny_model, tmp_path / str(complete), examples, epochs=1)
        stem = opened.encode(one.prompt)
        ids = opened.chat_format.tokenizer.encode(one.text) + [2] * complete
        with torch.no_grad():
            logits = opened.network(torch.tensor([stem + ids])).logits[0, len(stem) - 1 : -1]
        expected = torch.nn.functional.cross_entropy(logits, torch.tensor(ids))
        assert result.losses[0] == pytest.approx(float(expected), abs=1e-4)


def test_the_adapter_names_its_base_and_a_second_call_gives_the_same(
    tiny_model: Path, tmp_path: Path
):
    found = []
    for name in ("one", "other"):
        taught(tiny_model, tmp_path / name, texts(), epochs=3)
        adapter = tmp_path / name / "adapter"
        config = json.loads((adapter / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == str(tiny_model)
        found.append((adapter / "adapter_model.safetensors").read_bytes())
    assert found[0] == found[1]


def test_wrong_targets_and_no_texts_are_refused_by_name(tiny_model: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match=r"train\.targets: 'q_prj'.*near names: .*q_proj"):
        taught(tiny_model, tmp_path, texts(), targets=("q_prj",))
    with pytest.raises(DataError, match="no texts"):
        taught(tiny_model, tmp_path, [])


def test_a_turn_ends_with_the_stop_token_that_the_template_writes():
    chat = ChatFormat(tiny_tokenizer(), "tiny")
    assert chat.closing({0, 2}) == (2,)
    # this template ends turns with another stop token than the end of a sequence
    other = ChatFormat(
        tiny_tokenizer(template=CHATML.replace("<|im_end|>", "<|endoftext|>")), "tiny"
    )
    assert other.closing({0, 2}) == (0,)
    # one that no generation would stop at is not learned as an end
    assert other.closing({2}) == (2,)
    assert ChatFormat(tiny_tokenizer(template=None), "tiny").closing({0, 2}) == (2,)
