"""The token tree's passes compiled by OpenVINO: the same scores as each sequence alone in torch."""

from __future__ import annotations

import importlib.util
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import adapted, tiny_network
from trees import forest, pairwise

from trsr.errors import ConfigError
from trsr.models import ModelSettings, open_model
from trsr.models.hf.fused import fuse_lora
from trsr.models.openvino.compiled import BufferPool, CompiledPass, resolve
from trsr.models.token_tree.prefix_cache import PrefixCache
from trsr.models.token_tree.tree import answer_logits, answer_states, log_normalizer
from trsr.types import Message, Prompt

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(
        importlib.util.find_spec("openvino") is None,
        reason="the extra 'openvino' is not installed",
    ),
]

ANSWERS = [5, 9, 11]
QUESTIONS = [
    Prompt((Message("system", "Answer only Yes or No."), Message("user", f"{user} {item}")))
    for user in ("quiet films", "loud films about the sea")
    for item in ("a film", "the sea, loud", "twelve steel bolts")
]


@pytest.fixture(scope="module", params=["llama", "qwen2", "qwen3"])
def compiled(request: pytest.FixtureRequest) -> tuple[Any, CompiledPass]:
    network = tiny_network(request.param, tied=request.param != "qwen2")
    return network, CompiledPass(network)


@settings(max_examples=4)
@given(seed=st.integers(0, 2**32), budget=st.sampled_from([1, 64, 300, 10_000]))
def test_equals_pairwise(compiled: tuple[Any, CompiledPass], seed: int, budget: int) -> None:
    network, packed = compiled
    rng = random.Random(seed)
    sequences = forest(rng, depth=3)
    rng.shuffle(sequences)
    with torch.no_grad():
        states = answer_states(network, sequences, batch_tokens=budget, packed=packed)
        expected = pairwise(network, sequences)
        torch.testing.assert_close(
            answer_logits(network, states, ANSWERS), expected[:, ANSWERS], atol=1e-4, rtol=0
        )
        torch.testing.assert_close(
            log_normalizer(network, states), expected.logsumexp(-1), atol=1e-4, rtol=0
        )


def test_what_was_kept_is_gone_on_from(compiled: tuple[Any, CompiledPass]) -> None:
    network, packed = compiled
    prefix_cache, rng = PrefixCache(10_000), random.Random(3)
    stem = tuple(rng.randrange(3, 300) for _ in range(50))
    calls = [[stem + tuple(rng.choices(range(3, 300), k=n)) for n in (3, 20, 45)] for _ in "ab"]
    lengths: list[int] = []

    def counted(segments: Any, keep: Any, asked: Any) -> Any:
        lengths.append(sum(len(tokens) for tokens, _ in segments))
        return packed(segments, keep, asked)

    with torch.no_grad():
        for call in calls:
            states = answer_states(
                network, call, batch_tokens=10_000, prefix_cache=prefix_cache, packed=counted
            )
            found = answer_logits(network, states, ANSWERS)
            expected = pairwise(network, call)[:, ANSWERS]
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert lengths == [50, 68, 68]  # of what was kept the second call computes nothing


def test_users_share_a_pass_behind_prefixes_of_their_own(
    compiled: tuple[Any, CompiledPass], monkeypatch: pytest.MonkeyPatch
) -> None:
    network, packed = compiled
    rng = random.Random(4)
    passes: list[int] = []
    infer = packed.infer
    monkeypatch.setattr(
        packed, "infer", lambda feed, **more: passes.append(len(feed["ids"])) or infer(feed, **more)
    )

    def drawn(count: int) -> tuple[int, ...]:
        return tuple(rng.choices(range(3, 300), k=count))

    start = drawn(40)
    users = [start + drawn(n) for n in (40, 30, 65)]
    calls = [[user + drawn(n) for user in users for n in (9, 12, 17)] for _ in "ab"]
    prefix_cache = PrefixCache(10_000)
    with torch.no_grad():
        for call in calls:
            states = answer_states(
                network, call, batch_tokens=10_000, prefix_cache=prefix_cache, packed=packed
            )
            expected = pairwise(network, call)[:, ANSWERS]
            found = answer_logits(network, states, ANSWERS)
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    # the instruction, the users, all candidates; then all candidates behind what was kept
    assert passes == [40, 135, 3 * 38, 3 * 38]


def test_an_adapter_stays_beside_the_weights() -> None:
    network = adapted("llama", torch.float32).eval()
    fuse_lora(network)
    sequences = forest(random.Random(5), depth=2)
    with torch.no_grad():
        found = answer_states(network, sequences, batch_tokens=500, packed=CompiledPass(network))
        expected = answer_states(network, sequences, batch_tokens=500)
        plain = answer_states(network.get_base_model(), sequences, batch_tokens=500)
        with network.disable_adapter():
            without = answer_states(
                network, sequences, batch_tokens=500, packed=CompiledPass(network)
            )
            bare = answer_states(network, sequences, batch_tokens=500)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(found, plain, atol=1e-4, rtol=0)
    torch.testing.assert_close(without, bare, atol=1e-4, rtol=0)
    assert (found - without).abs().max() > 0.1


def test_memory_is_used_again_when_nobody_holds_it() -> None:
    """What somebody holds, be it one row of it in torch, is never given to another."""
    pool = BufferPool()
    held = [torch.from_numpy(pool.array(4, 100)) for _ in range(3)]
    for number, one in enumerate(held):
        one.fill_(number)
    row, where = held[0][2], held[1].data_ptr()
    held[:2] = []
    again = pool.array(3, 110)
    assert again.ctypes.data == where
    again.fill(-1)
    pool.array(4, 100).fill(-1)
    assert row.tolist() == [0] * 100
    assert held[0].tolist() == [[2] * 100] * 4


def test_a_model_scores_by_the_setting(folder: Path) -> None:
    shared = {"name": str(folder), "dtype": "float32"}
    plain = open_model(ModelSettings(**shared)).score(QUESTIONS, ("Yes", "No"))
    model = open_model(ModelSettings(**shared, scorer="openvino"))
    found = model.score(QUESTIONS, ("Yes", "No"))
    np.testing.assert_allclose(found, plain, atol=1e-4)
    np.testing.assert_allclose(model.score(QUESTIONS[3:], ("Yes", "No")), found[3:], atol=1e-4)


def test_auto_takes_what_it_can() -> None:
    assert resolve(tiny_network(), "auto") == "openvino"
    assert resolve(tiny_network("gpt_neox"), "auto") == "torch"
    assert resolve(tiny_network(), "torch") == "torch"


def test_what_scores_is_part_of_the_identity(folder: Path) -> None:
    names = ("torch", "openvino", "auto")
    models = [open_model(ModelSettings(name=str(folder), scorer=name)) for name in names]
    plain, compiled, auto = (model.identity for model in models)
    assert plain != compiled
    assert auto == compiled


@pytest.mark.parametrize("shape", ["gpt_neox", "mistral", "gemma2"])
def test_a_model_that_it_cannot_build_is_refused(shape: str) -> None:
    with pytest.raises(ConfigError, match=r"model\.scorer: .* set it to torch"):
        CompiledPass(tiny_network(shape))


def test_a_missing_package_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ConfigError, match=r"pip install 'trsr\[openvino\]'"):
        CompiledPass(tiny_network())
