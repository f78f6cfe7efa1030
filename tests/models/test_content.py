"""Parts of messages: texts stay what they were, and a backend refuses what it cannot take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trsr.errors import PromptError
from trsr.models.base import Sampling
from trsr.models.settings import ModelSettings, open_model
from trsr.storage.response_cache import response_key
from trsr.types import Image, Message, Prompt, Vectors

PICTURE = Image(b"\x89PNG...", "image/png")
SEEN = Prompt((Message("system", "Say what you see."), Message("user", ("A film: ", PICTURE))))


def test_the_digest_of_a_text_prompt_is_what_it_always_was() -> None:
    """Computed by 0.1.0, before messages had parts: no stored answer is lost."""
    said = "- title: Heat; genres: Crime\n- title: Été 36"
    turns = (
        ("system", "Sum up what the user likes."),
        ("user", said),
        ("assistant", "The user likes"),
    )
    prompt = Prompt(tuple(Message(role, text) for role, text in turns), draw=2)
    wanted = (
        "7eb669ed9ad5a33e11adf3bd5355400377d7d32dc598d523f93ab794f4801e9d",
        "41861439f2f683d6d6c2fe994214bb21cd0c5faf47996fe8db729908b27fc1f0",
    )
    for kind, key in zip(
        ({"generate": Sampling().model_dump()}, {"score": ["Yes", "No"]}), wanted, strict=True
    ):
        assert response_key("tiny abc float32", prompt, kind) == key
    assert prompt.seed_parts == (*(part for turn in turns for part in turn), "draw 2")


@given(st.lists(st.text(max_size=5), max_size=5))
def test_a_text_is_the_same_however_it_is_put_together(parts: list[str]) -> None:
    whole = Message("user", "".join(parts))
    assert Message("user", parts) == whole
    assert hash(Message("user", parts)) == hash(whole)
    assert whole.content == "".join(parts) == whole.key


def test_other_parts_decide_the_key_too() -> None:
    others = [
        (PICTURE,),
        ("A film: ", PICTURE),
        (PICTURE, "A film: "),
        ("A film: ", Image(b"\x89PNG..!", "image/png")),
        ("A film: ", Image(PICTURE.data, "image/webp")),
        ("A film: ", Vectors("Heat", 2)),
        ("A film: ", Vectors("Heat", 3)),
        ("A film: ",),
    ]
    prompts = [Prompt((Message("user", parts),)) for parts in others]
    assert len({response_key("m", prompt, {}) for prompt in prompts}) == len(others)
    assert len({prompt.seed_parts for prompt in prompts}) == len(others)


@pytest.mark.parametrize("backend", ["transformers", "openvino", "scripted"])
def test_a_backend_refuses_what_it_cannot_take_by_name(backend: str, tiny_model: Path) -> None:
    if backend == "openvino":
        pytest.importorskip("openvino_genai", reason="the extra 'openvino' is not installed")
    model: Any = open_model(
        ModelSettings(
            backend=backend,
            name=str(tiny_model),
            dtype="float32",
            device="cpu",
            base_url="http://127.0.0.1:9/v1",
        )
    )
    said = rf"the backend {backend} .*message 2 \(role user\) holds an image \(image/png, 7 bytes\)"
    with pytest.raises(PromptError, match=said):
        model.count_tokens(SEEN)
    with pytest.raises(PromptError, match=said):
        list(model.generate([SEEN], Sampling(max_tokens=2)))
    with pytest.raises(PromptError, match=r"message 1 \(role user\) holds 2 vectors of 'Heat'"):
        model.count_tokens(Prompt((Message("user", Vectors("Heat", 2)),)))
    if hasattr(model, "score"):
        with pytest.raises(PromptError, match=said):
            model.score([SEEN], ("Yes", "No"))
