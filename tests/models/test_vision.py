"""Local models that see, tiny and random: an image is read as the model itself reads it."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawn import picture, png
from tiny_vision import SHAPES, vision_folder

from trsr.errors import ModelError, PromptError
from trsr.models.base import Sampling
from trsr.models.hf.generate import Batch
from trsr.models.settings import ModelSettings, open_model
from trsr.models.weights import image_fault
from trsr.storage.images import decode
from trsr.types import Image, Message, Prompt

torch = pytest.importorskip("torch", reason="the extra 'local' is not installed")
pytest.importorskip("PIL", reason="the extra 'images' is not installed")


def images(count: int) -> list[Image]:
    draw = random.Random(1)
    colors = [tuple(draw.randrange(256) for _ in range(3)) for _ in range(count)]
    shapes = [picture(color, draw, 33 + place % 5) for place, color in enumerate(colors)]
    return [Image(png(shape), "image/png") for shape in shapes]


def asked(image: Image, number: int = 0) -> Prompt:
    text = f"The user likes quiet films about the sea. Next: thing {number}\n"
    return Prompt((Message("system", "Answer only Yes or No."), Message("user", (text, image))))


def opened(folder: Path, **settings: Any) -> Any:
    return open_model(ModelSettings(name=str(folder), dtype="float32", device="cpu", **settings))


@pytest.fixture(scope="module", params=SHAPES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return vision_folder(tmp_path_factory.mktemp("vision") / request.param, request.param)


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    return opened(folder)


def own_inputs(model: Any, prompt: Prompt) -> Any:
    """What the model's processor makes of a prompt."""
    vectors = model.chat_format.vectors
    text = re.sub("\ue000\\d+\ue000", vectors.processor.image_token, model.chat_format.text(prompt))
    image = next(part for part in prompt.messages[-1].parts if isinstance(part, Image))
    kind = {"return_tensors": "pt", "add_special_tokens": False}
    return vectors.processor(text=[text], images=[decode(image)], **kind)


def test_one_pass_over_21_candidates_is_one_by_one_is_the_models_own(model: Any) -> None:
    prompts = [asked(image, place) for place, image in enumerate(images(21))]
    together = model.score(prompts, ("A", "B"))
    model.forget()
    alone = np.concatenate([model.score([prompt], ("A", "B")) for prompt in prompts])
    assert np.abs(together - alone).max() < 1e-4
    assert together.std(axis=0).min() > 0.01  # what is seen matters
    columns = model.chat_format.tokenizer.convert_tokens_to_ids(["A", "B"])
    for prompt, scores in list(zip(prompts, together, strict=True))[:3]:
        inputs = own_inputs(model, prompt)
        assert inputs["input_ids"].shape[1] == model.count_tokens(prompt)
        with torch.no_grad():
            logits = model.network(**inputs).logits[0, -1]
        assert np.abs(logits.log_softmax(-1)[columns].numpy() - scores).max() < 1e-4


def test_candidates_share_all_that_stands_before_their_image(model: Any) -> None:
    one, other = images(2)
    first, second = (model.chat_format.encode(asked(image)) for image in (one, other))
    differing = next(
        place for place, pair in enumerate(zip(first, second, strict=False)) if len(set(pair)) > 1
    )
    before = model.chat_format.encode(Prompt((*asked(one).messages[:1], Message("user", "The"))))
    assert differing > len(before)
    assert first[differing] >= model.chat_format.vectors.base
    # the same picture in another file's place is the same
    again = Image(bytes(bytearray(one.data)), one.media_type)
    assert model.chat_format.encode(asked(again)) == first


def test_texts_are_those_of_the_models_own_generation(model: Any) -> None:
    prompts = [Prompt((Message("user", (image, "\nWhat is it?")),)) for image in images(6)]
    texts = dict(model.generate(prompts, Sampling(max_tokens=8)))
    inputs = own_inputs(model, prompts[0])
    with torch.no_grad():
        made = model.network.generate(**inputs, max_new_tokens=8, do_sample=False)
    tokens = made[0, inputs["input_ids"].shape[1] :]
    assert texts[0] == model.chat_format.tokenizer.decode(tokens, skip_special_tokens=True)
    assert len(set(texts.values())) > 1


def test_images_are_described_side_by_side(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    step = Batch.step

    def counted(batch: Any, *given: Any) -> Any:
        rows.append(len(batch.rows))
        return step(batch, *given)

    monkeypatch.setattr(Batch, "step", counted)
    prompts = [Prompt((Message("user", (image, "\nWhat is it?")),)) for image in images(6)]
    list(model.generate(prompts, Sampling(max_tokens=4)))
    assert len(rows) <= 3  # of one token each, for all images
    assert rows[0] > 3


def test_text_that_looks_like_an_image_is_text(model: Any) -> None:
    mark, image = model.chat_format.vectors.processor.image_token, images(1)[0]
    number = model.chat_format.vectors.known(image).first
    sly = Prompt((Message("user", f"{mark} and \ue000{number}\ue000"),))
    tokens = model.chat_format.encode(sly)
    assert max(tokens) < model.chat_format.vectors.base
    assert model.chat_format.vectors.processor.image_token_id not in tokens


def test_lora_adapts_the_language_part_alone_and_loads_again(folder: Path, tmp_path: Path) -> None:
    from trsr.training.adapter import Adapter
    from trsr.training.settings import TrainSettings

    model = opened(folder)
    adapter = Adapter(model.network, TrainSettings(targets=("q_proj", "v_proj")), "base", 0)
    assert adapter.parameters
    assert not any("vision" in name or "visual" in name for name in adapter.parameters)
    weights = {name: tensor + 0.1 for name, tensor in adapter.weights().items()}
    adapter.restore(weights)
    adapter.write(tmp_path, weights)
    prompts = [asked(image) for image in images(2)]
    trained = model.score(prompts, ("A", "B"))
    again = open_model(ModelSettings(name=str(folder), dtype="float32", device="cpu"), tmp_path)
    assert np.abs(trained - again.score(prompts, ("A", "B"))).max() < 1e-4
    assert np.abs(trained - opened(folder).score(prompts, ("A", "B"))).max() > 1e-3


def test_image_tokens_bound_what_can_be_bounded(tmp_path: Path) -> None:
    folder = vision_folder(tmp_path, "qwen2_vl")
    draw = random.Random(0)
    large = Image(png(picture((9, 99, 200), draw, 200)), "image/png")
    counts = [
        opened(folder, image_tokens=most).chat_format.vectors.known(large).count
        for most in (4, 16, 64)
    ]
    assert counts == sorted(set(counts))
    assert all(count <= most for count, most in zip(counts, (4, 16, 64), strict=True))


def test_what_cannot_see_is_said(tmp_path: Path) -> None:
    folder = vision_folder(tmp_path / "whole", "smolvlm")
    assert image_fault("transformers", str(folder)) == ""
    assert "smollm2-135m takes no images" in image_fault("transformers", "smollm2-135m")
    broken = Image(b"\x89PNG not really", "image/png")
    with pytest.raises(PromptError, match="cannot read an image .*no picture"):
        opened(folder).count_tokens(asked(broken))
    for name in ("preprocessor_config.json", "processor_config.json"):
        (folder / name).unlink()
    assert "has no processor of images" in image_fault("transformers", str(folder))
    with pytest.raises(ModelError, match=r"the processor in .* cannot be loaded.*preprocessor_"):
        opened(folder)
    settings = json.loads((folder / "config.json").read_text())
    del settings["vision_config"]
    (folder / "config.json").write_text(json.dumps(settings))
    assert "takes no images" in image_fault("transformers", str(folder))
