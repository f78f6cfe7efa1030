from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from chains import answered_in_turn
from tiny import tiny_model_folder, tiny_network

from trsr.errors import ModelError, PromptError
from trsr.models import ModelSettings, Sampling
from trsr.models.hf.generate import Generator
from trsr.models.hf.model import TransformersModel
from trsr.types import Message, Prompt

pytestmark = pytest.mark.usefixtures("one_thread")

SHORT = Sampling(max_tokens=12)
STEM = "Summarize in one sentence what the user watched, oldest first, then stop. " * 3


def opened(folder: Path, batch_size: int = 4, **changes: Any) -> TransformersModel:
    settings = ModelSettings(
        name=str(folder), dtype="float32", device="cpu", batch_size=batch_size, **changes
    )
    return TransformersModel(settings)


def ask(text: str, begun: str = "The user") -> Prompt:
    messages = (Message("system", STEM), Message("user", text))
    return Prompt((*messages, Message("assistant", begun)) if begun else messages)


def prompts() -> list[Prompt]:
    """Of two kinds and many lengths, one of them twice."""
    films = [ask("Title: Heat " * n) for n in (1, 7, 2, 2, 12, 3)]
    plain = [Prompt((Message("user", "steel bolts " * n),)) for n in (1, 5)]
    return [*films[:3], *plain, *films[3:]]


def texts(model: TransformersModel, asked: list[Prompt], sampling: Sampling) -> dict[int, str]:
    answers = list(model.generate(iter(asked), sampling))
    assert len(dict(answers)) == len(answers)
    return dict(answers)


def by_hand(model: TransformersModel, prompt: Prompt, sampling: Sampling) -> str:
    """Plain greedy decoding of one prompt without any cache."""
    tokens = model.encode(prompt)
    start = len(tokens)
    for _ in range(sampling.max_tokens):
        with torch.no_grad():
            logits = model.network(input_ids=torch.tensor([tokens]), use_cache=False).logits
        token = int(logits[0, -1].argmax())
        if token == model.chat_format.tokenizer.eos_token_id:
            break
        tokens.append(token)
    return model.chat_format.decode(tokens[:start], tokens[start:])


@pytest.mark.parametrize("shape", ["llama", "gpt_neox", "mistral", "gemma2"])
def test_greedy_equals_one_at_a_time(tmp_path: Path, shape: str) -> None:
    """Batches, padding, shared stems, finished neighbours: the text is the plain one."""
    model = opened(tiny_model_folder(tmp_path / "m", shape=shape))
    asked = prompts()
    expected = {place: by_hand(model, prompt, SHORT) for place, prompt in enumerate(asked)}
    assert texts(model, asked, SHORT) == expected
    assert texts(model, asked, SHORT) == expected  # with the stems kept from before


def test_each_prompt_once_whatever_the_batch(folder: Path) -> None:
    expected = texts(opened(folder, 1), prompts(), SHORT)
    assert sorted(expected) == list(range(len(prompts())))
    for size in (2, 3, 32):
        assert texts(opened(folder, size), prompts(), SHORT) == expected


def test_drawn_texts_have_their_own_seed(folder: Path) -> None:
    drawn = Sampling(max_tokens=12, temperature=1.3, top_p=0.9, seed=5)
    expected = texts(opened(folder, 1), prompts(), drawn)
    backwards = texts(opened(folder, 3), prompts()[::-1], drawn)
    assert {len(expected) - 1 - place: text for place, text in backwards.items()} == expected
    assert texts(opened(folder), prompts(), drawn.model_copy(update={"seed": 6})) != expected
    assert expected != texts(opened(folder), prompts(), SHORT)
    again = texts(opened(folder), [replace(one, draw=1) for one in prompts()], drawn)
    assert all(again[place] != text for place, text in expected.items())


def test_a_tiny_nucleus_is_greedy(folder: Path) -> None:
    narrow = Sampling(max_tokens=12, temperature=2.0, top_p=1e-9)
    assert texts(opened(folder), prompts(), narrow) == texts(opened(folder), prompts(), SHORT)


def test_the_feed_may_wait_for_answers(folder: Path) -> None:
    model = opened(folder, batch_size=2)
    first = ["one", "two", "three"]
    alone = [answered_in_turn(model, [one], ask, 3, SHORT) for one in first]
    assert [[one] for one in answered_in_turn(model, first, ask, 3, SHORT)] == alone


def test_a_feed_that_waits_for_nothing(folder: Path) -> None:
    with pytest.raises(RuntimeError, match="none is being made"):
        list(opened(folder).generate(iter([None]), SHORT))


def test_the_feed_is_read_lazily(folder: Path) -> None:
    model = opened(folder, batch_size=2)
    read = []

    def feed() -> Iterator[Prompt]:
        for number in range(50):
            read.append(number)
            yield ask(f"film {number}")

    next(model.generate(feed(), SHORT))
    assert len(read) <= 8


def test_gradients_stay_as_the_caller_has_them(folder: Path) -> None:
    answers = opened(folder).generate(iter(prompts()), SHORT)
    next(answers)
    assert torch.is_grad_enabled()


def run_lengths(tokens: list[int], size: int) -> list[tuple[int, ...]]:
    return [tuple(tokens[i : i + size]) for i in range(len(tokens) - size + 1)]


def generated(model: TransformersModel, prompt: Prompt, sampling: Sampling) -> list[int]:
    """The tokens of one text, as the model's embedding sees them go by."""
    seen: list[int] = []
    hook = model.network.model.embed_tokens.register_forward_hook(
        lambda _, inputs, __: seen.extend(inputs[0][0].tolist())
    )
    texts(model, [prompt], sampling)
    hook.remove()
    return seen[len(model.encode(prompt)) :]


def test_no_run_twice_and_no_worked_example_again(folder: Path) -> None:
    model = opened(folder)
    free = Sampling(max_tokens=60)
    bound = Sampling(max_tokens=60, no_repeat_ngram=2)
    prompt = ask("Title: Heat")
    assert len(set(run_lengths(generated(model, prompt, free), 2))) < 58  # it does loop
    tokens = generated(model, prompt, bound)
    begun = model.chat_format.tokenizer.encode("The user")
    runs = run_lengths([*begun, *tokens], 2)
    assert len(set(runs)) == len(runs)

    said = model.chat_format.tokenizer.decode(tokens[:20], skip_special_tokens=True)
    example = Prompt((*ask("Title: Up", said).messages, *ask("Title: Heat").messages[1:]))
    earlier = run_lengths(model.chat_format.tokenizer.encode(said), 2)
    assert not set(earlier) & set(run_lengths(generated(model, example, bound), 2))


def test_the_penalty_makes_repetition_rarer(folder: Path) -> None:
    model = opened(folder)
    free = generated(model, ask("Title: Heat"), Sampling(max_tokens=60))
    bound = generated(model, ask("Title: Heat"), Sampling(max_tokens=60, repetition_penalty=1.8))
    assert len(set(bound)) > len(set(free))


def test_a_prompt_without_room(folder: Path) -> None:
    model = opened(folder, context_tokens=128)
    with pytest.raises(PromptError, match=r"prompt 1 has \d+ tokens.*at most 128"):
        list(model.generate(iter([Prompt((Message("user", "a"),)), ask("word " * 80)]), SHORT))


def test_plain_layout_ends_before_the_next_label(tmp_path: Path) -> None:
    """A base model goes on with a turn of the user's; the text is what comes before it."""
    model = opened(tiny_model_folder(tmp_path / "m", template=None))
    said = model.chat_format.tokenizer.encode(" ships.\n\n### User: and")

    def steer(_: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        # a head that says the planned text, token by token
        steered = torch.full_like(output, -100.0)
        for row in range(len(output)):
            step = planned[row] = planned.get(row, -1) + 1
            steered[row, said[min(step, len(said) - 1)]] = 100.0
        return steered

    planned: dict[int, int] = {}
    hook = model.network.lm_head.register_forward_hook(steer)
    answer = texts(model, [ask("x", "The user likes")], Sampling(max_tokens=60))
    hook.remove()
    assert answer == {0: " ships."}


def test_the_space_at_the_front_is_kept(folder: Path) -> None:
    layout = opened(folder).chat_format
    tokens = layout.tokenizer.encode(" quiet films")
    assert layout.decode(layout.encode(ask("x")), tokens) == " quiet films"


def test_the_models_own_sampling_settings_stay_out(tmp_path: Path) -> None:
    from transformers import GenerationConfig

    folder = tiny_model_folder(tmp_path / "m")
    expected = texts(opened(folder), prompts(), SHORT)
    GenerationConfig(
        do_sample=True, temperature=9.0, repetition_penalty=5.0, max_new_tokens=2, eos_token_id=2
    ).save_pretrained(folder)
    assert texts(opened(folder), prompts(), SHORT) == expected


def test_a_model_that_keeps_no_plain_keys(folder: Path) -> None:
    network = tiny_network("llama")
    network.config.layer_types = ["linear_attention", "full_attention"]
    with pytest.raises(ModelError, match="openai backend"):
        Generator(network, opened(folder).chat_format, 4, 128)
