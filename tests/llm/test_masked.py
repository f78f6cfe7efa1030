"""The token tree in one pass under a mask: what each sequence alone gives, values and gradients."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import adapted, tiny_model_folder, tiny_network
from trees import ANSWERS, forest, pairwise, same_gradients

from trsr.llm import ModelSettings, load, masked, open_model
from trsr.llm.kept import decoder_of
from trsr.llm.masked import can_mask, masking, rows_of, run_masked, wants_mask
from trsr.llm.tokens import distinct_tokens
from trsr.llm.tree import answer_logits, answer_states, log_normalizer
from trsr.types import Message, Prompt

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPES = ["llama", "qwen2", "qwen3", "gpt_neox"]
OTHERS = ["mistral", "gemma2"]  # they look back so far and no farther

Sequences = list[tuple[int, ...]]


@pytest.fixture(scope="module")
def networks() -> dict[str, Any]:
    return {shape: tiny_network(shape, tied=shape != "qwen2").requires_grad_() for shape in SHAPES}


@pytest.fixture(scope="module", autouse=True)
def passes() -> Iterator[list[int]]:
    """The tokens of each pass under the mask; trees are cut whatever the copies cost."""
    seen: list[int] = []
    own = masked.run_masked

    def counted(decoder: Any, trees: Any) -> Any:
        seen.append(sum(tree.size for tree in trees))
        return own(decoder, trees)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(masked, "MOST_REPEATED", float("inf"))
        patch.setattr("trsr.llm.tree.run_masked", counted)
        yield seen


@pytest.fixture(autouse=True)
def fresh(passes: list[int]) -> None:
    passes.clear()


def drawn(rng: random.Random, count: int) -> tuple[int, ...]:
    return tuple(rng.randrange(3, 300) for _ in range(count))


@pytest.mark.parametrize("shape", SHAPES)
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32), budget=st.sampled_from([1, 64, 300, 10_000]))
def test_equals_pairwise(
    networks: dict[str, Any], passes: list[int], shape: str, seed: int, budget: int
) -> None:
    network, rng = networks[shape], random.Random(seed)
    sequences = forest(rng, depth=3)
    rng.shuffle(sequences)
    passes.clear()
    with torch.no_grad():
        with masking(network, True):
            states = answer_states(network, sequences, batch_tokens=budget)
        expected = pairwise(network, sequences)
        torch.testing.assert_close(
            answer_logits(network, states, ANSWERS), expected[:, ANSWERS], atol=1e-4, rtol=0
        )
        torch.testing.assert_close(
            log_normalizer(network, states), expected.logsumexp(-1), atol=1e-4, rtol=0
        )
    assert passes
    assert max(passes) <= max(budget, *map(len, sequences))


@pytest.mark.parametrize("shape", SHAPES)
@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 2**32), budget=st.sampled_from([1, 200, 10_000]))
def test_gradients_equal_pairwise(
    networks: dict[str, Any], shape: str, seed: int, budget: int
) -> None:
    network = networks[shape]
    with masking(network, True):
        same_gradients(network, forest(random.Random(seed), depth=2), budget, seed)


@pytest.mark.parametrize("shape", ["llama", "gpt_neox"])
def test_gradients_of_an_adapter_equal_pairwise(shape: str) -> None:
    network = adapted(shape, torch.float32).eval()
    with masking(network, True):
        same_gradients(network, forest(random.Random(3), depth=2), 300)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("budget", [150, 10_000])
def test_both_kernels_mean_the_same(networks: dict[str, Any], shape: str, budget: int) -> None:
    network, rng = networks[shape], random.Random(4)
    stem = drawn(rng, 40)
    users = [stem + drawn(rng, 30) for _ in range(3)]
    sequences = sorted({*(user + drawn(rng, 20) for user in users * 3), users[0], stem[:7]})
    decoder = decoder_of(network).requires_grad_(False)
    rows = rows_of(sequences, budget)
    assert rows is not None
    with torch.no_grad():
        for row in rows:
            ends, dense = run_masked(decoder, row, "dense")
            same, flex = run_masked(decoder, row, "flex")
            assert same == ends
            torch.testing.assert_close(flex, dense, atol=1e-5, rtol=1e-5)
    decoder.requires_grad_(True)


def test_a_tree_is_one_pass_of_its_distinct_tokens(
    networks: dict[str, Any], passes: list[int]
) -> None:
    """Instruction → 3 users → 4 candidates each, in any order, some twice, some within others."""
    network, rng = networks["llama"], random.Random(7)
    instruction = drawn(rng, 40)
    users = [instruction + drawn(rng, 30) for _ in range(3)]
    sequences = [user + drawn(rng, 10) for user in users for _ in range(4)]
    sequences += [sequences[3], users[1], instruction[:5], instruction]
    rng.shuffle(sequences)
    with torch.no_grad(), masking(network, True):
        states = answer_states(network, sequences, batch_tokens=10_000)
        torch.testing.assert_close(
            answer_logits(network, states, ANSWERS),
            pairwise(network, sequences)[:, ANSWERS],
            atol=1e-4,
            rtol=0,
        )
    assert passes == [distinct_tokens(sequences)] == [40 + 3 * 30 + 12 * 10]


def test_a_tree_over_the_budget_is_cut_behind_copies(
    networks: dict[str, Any], passes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    network, rng = networks["llama"], random.Random(8)
    instruction = drawn(rng, 10)
    users = [instruction + drawn(rng, 40) for _ in range(4)]
    sequences = [user + drawn(rng, 10) for user in users for _ in range(4)]

    def ask(budget: int) -> list[int]:
        passes.clear()
        with torch.no_grad(), masking(network, True):
            states = answer_states(network, sequences, batch_tokens=budget)
        with torch.no_grad():
            plain = answer_states(network, sequences, batch_tokens=budget)
        torch.testing.assert_close(states, plain, atol=1e-4, rtol=1e-4)
        return list(passes)

    assert ask(330) == [330]
    assert ask(200) == [170, 170]  # the instruction twice
    assert ask(90) == [90] * 4  # and for each user
    # within a user: 10 + 40 tokens above each half of the candidates
    assert ask(70) == [70] * 8
    monkeypatch.setattr(masked, "MOST_REPEATED", 1.25)
    assert ask(90) == [90] * 4  # 360 tokens for 330
    assert ask(70) == []  # 560: level by level


def test_models_whose_attention_is_more_than_that_go_level_by_level(passes: list[int]) -> None:
    for shape in OTHERS:
        network = tiny_network(shape)
        assert not can_mask(network)
        sequences = forest(random.Random(9), depth=2)
        with torch.no_grad(), masking(network, True):
            states = answer_states(network, sequences, batch_tokens=300)
            torch.testing.assert_close(
                answer_logits(network, states, ANSWERS),
                pairwise(network, sequences)[:, ANSWERS],
                atol=1e-4,
                rtol=0,
            )
    network = tiny_network("llama")
    assert can_mask(network)
    network.config.attention_dropout = 0.1
    assert can_mask(network)
    assert not can_mask(network.train())
    network.config.attention_dropout = 0.0
    assert can_mask(network)
    enable = getattr(network, "activation_checkpointing_enable", None)  # its name from 5.2x on
    (enable or network.gradient_checkpointing_enable)({"use_reentrant": False})
    assert not can_mask(network)
    assert passes == []


def test_the_wish_ends_where_it_was_made(networks: dict[str, Any]) -> None:
    network = networks["llama"]
    assert not wants_mask(network)
    with masking(network, True):
        assert wants_mask(network)
        with masking(network, False):
            assert not wants_mask(network)
        assert wants_mask(network)
    assert not wants_mask(network)


def test_nothing_and_empty_sequences(networks: dict[str, Any]) -> None:
    with masking(networks["llama"], True):
        assert answer_states(networks["llama"], [], batch_tokens=100).shape == (0, 32)
        with pytest.raises(ValueError, match="empty"):
            answer_states(networks["llama"], [(3, 4), ()], batch_tokens=100)


def test_the_setting_reaches_ranking_and_says_nothing_of_the_answers(
    tiny_model: Path, passes: list[int]
) -> None:
    prompts = [
        Prompt((Message("system", "Answer only Yes or No."), Message("user", f"{user} {item}")))
        for user in ("quiet films", "loud films about the sea")
        for item in ("a film", "the sea, loud", "twelve steel bolts")
    ]
    base = ModelSettings(name=str(tiny_model), dtype="float32", device="cpu")
    asked = base.model_copy(update={"tree": "mask"})
    plain, mask = open_model(base), open_model(asked)
    assert (wants_mask(plain.network), wants_mask(mask.network)) == (False, True)
    expected = plain.score(prompts, ["Yes", "No"])
    assert passes == []
    np.testing.assert_allclose(mask.score(prompts, ["Yes", "No"]), expected, rtol=0, atol=1e-4)
    assert len(passes) == 1
    assert mask.identity == plain.identity
    assert asked.meaning() == base.meaning()
    # a training that goes on sums as it began
    assert asked.passes() == {"batch_tokens": 8192, "tree": "mask"}
    assert base.passes() == {"batch_tokens": 8192}


def test_an_adapter_beside_the_weights_keeps_the_wish(tmp_path: Path) -> None:
    folder = tiny_model_folder(tmp_path / "model")
    adapted("llama", torch.float32).save_pretrained(tmp_path / "adapter")
    for dtype in ("float32", "bfloat16"):
        wish = ModelSettings(name=str(folder), dtype=dtype, device="cpu", tree="mask")
        network = load.load_network(wish, folder, tmp_path / "adapter", torch.device("cpu"))
        assert wants_mask(network)
