from __future__ import annotations

import gc
import random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_network
from trees import ANSWERS, forest, gradients, pairwise, same_gradients

from trsr.models.token_tree import tree
from trsr.models.token_tree.packed import run_packed
from trsr.models.token_tree.prefix_cache import PrefixCache
from trsr.models.token_tree.tree import (
    answer_logits,
    answer_states,
    distinct_tokens,
    log_normalizer,
    token_states,
    tree_stats,
)

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPES = [
    ("llama", True),
    ("qwen2", True),
    ("qwen3", False),
    ("gpt_neox", False),
    ("mistral", True),
    ("gemma2", True),
]


@pytest.fixture(scope="module")
def networks() -> dict[tuple[str, bool], Any]:
    return {(shape, tied): tiny_network(shape, tied=tied) for shape, tied in SHAPES}


@pytest.mark.parametrize("model", SHAPES, ids=str)
@settings(max_examples=5)
@given(seed=st.integers(0, 2**32), budget=st.sampled_from([1, 64, 300, 10_000]))
def test_equals_pairwise(
    networks: dict[tuple[str, bool], Any], model: tuple[str, bool], seed: int, budget: int
) -> None:
    network, rng = networks[model], random.Random(seed)
    sequences = forest(rng, depth=3)
    rng.shuffle(sequences)
    with torch.no_grad():
        states = answer_states(network, sequences, batch_tokens=budget)
        expected = pairwise(network, sequences)
        torch.testing.assert_close(
            answer_logits(network, states, ANSWERS), expected[:, ANSWERS], atol=1e-4, rtol=0
        )
        torch.testing.assert_close(
            log_normalizer(network, states), expected.logsumexp(-1), atol=1e-4, rtol=0
        )


@pytest.mark.parametrize("model", SHAPES, ids=str)
@settings(max_examples=3)
@given(seed=st.integers(0, 2**32), budget=st.sampled_from([1, 200, 10_000]))
def test_gradients_equal_pairwise(
    networks: dict[tuple[str, bool], Any], model: tuple[str, bool], seed: int, budget: int
) -> None:
    same_gradients(networks[model], forest(random.Random(seed), depth=2), budget, seed)


@pytest.mark.parametrize("shape", ["llama", "gemma2"])
@settings(max_examples=5)
@given(seed=st.integers(0, 2**32), budget=st.sampled_from([1, 64, 300, 10_000]))
def test_every_tokens_state_is_that_of_computing_its_sequence_alone(
    networks: dict[tuple[str, bool], Any], shape: str, seed: int, budget: int
) -> None:
    network, rng = networks[shape, True], random.Random(seed)
    sequences = forest(rng, depth=3)
    rng.shuffle(sequences)
    with torch.no_grad():
        states, places = token_states(network, sequences, batch_tokens=budget)
        assert [len(path) for path in places] == [len(sequence) for sequence in sequences]
        for sequence, path in zip(sequences, places, strict=True):
            plain = network.model(torch.tensor([sequence])).last_hidden_state[0]
            torch.testing.assert_close(states[path], plain, atol=1e-4, rtol=1e-4)
    assert sorted({place for path in places for place in path}) == list(range(len(states)))


def test_every_tokens_states_share_what_sequences_begin_alike(
    networks: dict[tuple[str, bool], Any],
) -> None:
    start = tuple(range(3, 103))
    with torch.no_grad():
        states, (one, other, again, whole) = token_states(
            networks["llama", True],
            [(*start, 7, 8), (*start, 9), (*start, 7, 8), start],
            batch_tokens=10_000,
        )
    assert len(states) == 103
    assert one == again
    assert one[:100] == other[:100] == whole
    assert not set(one[100:]) & set(other[100:])


def test_every_tokens_states_of_nothing_are_none(networks: dict[tuple[str, bool], Any]) -> None:
    states, places = token_states(networks["llama", True], [], batch_tokens=100)
    assert (len(states), places) == (0, [])
    with pytest.raises(ValueError, match="empty"):
        token_states(networks["llama", True], [(1,), ()], batch_tokens=100)


def test_each_distinct_token_is_computed_once(
    networks: dict[tuple[str, bool], Any],
) -> None:
    """Instruction → 3 users → 4 candidates each: the model sees the tree's tokens, no more."""
    network = networks["llama", True]
    rng = random.Random(7)

    def draw(count: int) -> tuple[int, ...]:
        return tuple(rng.randrange(3, 300) for _ in range(count))

    instruction = draw(40)
    users = [instruction + draw(30) for _ in range(3)]
    sequences = [user + draw(10) for user in users for _ in range(4)]
    seen: list[int] = []
    hook = network.model.embed_tokens.register_forward_hook(
        lambda _, inputs, __: seen.append(inputs[0].numel())
    )
    with torch.no_grad():
        answer_states(network, sequences, batch_tokens=10_000)
    hook.remove()
    assert sum(seen) == distinct_tokens(sequences) == 40 + 3 * 30 + 12 * 10
    assert len(seen) == 3


def test_a_chain_is_one_pass(networks: dict[tuple[str, bool], Any]) -> None:
    """Sequences that extend each other end inside one run: no split, one row."""
    network = networks["llama", True]
    whole = tuple(range(3, 103))
    chain = [whole[:n] for n in (1, 10, 50, 99, 100)]
    seen: list[torch.Size] = []
    hook = network.model.embed_tokens.register_forward_hook(
        lambda _, inputs, __: seen.append(inputs[0].shape)
    )
    with torch.no_grad():
        states = answer_states(network, chain, batch_tokens=10_000)
    hook.remove()
    assert seen == [(1, 100)]
    with torch.no_grad():
        torch.testing.assert_close(
            answer_logits(network, states, ANSWERS),
            pairwise(network, chain)[:, ANSWERS],
            atol=1e-4,
            rtol=0,
        )


def test_peft_wrapper_with_an_adapter(networks: dict[tuple[str, bool], Any]) -> None:
    from peft import LoraConfig, get_peft_model

    network = get_peft_model(
        tiny_network("llama"),
        LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False),
    ).eval()
    sequences = forest(random.Random(3), depth=2)
    states = answer_states(network, sequences, batch_tokens=500)
    ours = gradients(network, answer_logits(network, states, ANSWERS).sum())
    theirs = gradients(network, pairwise(network, sequences)[:, ANSWERS].sum())
    assert any("lora" in name for name in ours)
    for name, gradient in theirs.items():
        assert (ours[name] - gradient).norm() <= 1e-5 * gradient.norm() + 1e-12, name
    plain = answer_logits(
        networks["llama", True],
        answer_states(networks["llama", True], sequences, batch_tokens=500),
        ANSWERS,
    )
    assert (answer_logits(network, states, ANSWERS) - plain).abs().max() > 1e-3


def test_gradient_checkpointing_stays_right() -> None:
    """transformers drops the cache when it checkpoints; the tree then does not share."""
    network = tiny_network("llama")
    sequences = forest(random.Random(5), depth=2)
    theirs = gradients(network, pairwise(network, sequences)[:, ANSWERS].sum())
    enable = getattr(network, "activation_checkpointing_enable", None)  # its name from 5.2x on
    (enable or network.gradient_checkpointing_enable)({"use_reentrant": False})
    network.train()
    states = answer_states(network, sequences, batch_tokens=500)
    ours = gradients(network, answer_logits(network, states, ANSWERS).sum())
    for name, gradient in theirs.items():
        assert (ours[name] - gradient).norm() <= 1e-5 * gradient.norm() + 1e-12, name


def test_a_learned_position_table_is_not_overrun() -> None:
    """Padding behind a long prefix would stand past the table's end."""
    import transformers as tf

    torch.manual_seed(0)
    config = tf.GPT2Config(
        vocab_size=300, n_embd=32, n_layer=2, n_head=4, n_positions=64, initializer_range=0.2
    )
    network = tf.GPT2LMHeadModel(config).eval()
    long, short = tuple(range(3, 63)), tuple(range(100, 140))
    sequences = [(*long, 7), (*long, 8), (*short, *range(20)), (*short, 9)]
    with torch.no_grad():
        states = answer_states(network, sequences, batch_tokens=10_000)
        torch.testing.assert_close(
            answer_logits(network, states, ANSWERS),
            pairwise(network, sequences)[:, ANSWERS],
            atol=1e-4,
            rtol=0,
        )


def test_head_biases_and_scales_are_kept() -> None:
    """Cohere multiplies its logits, Granite divides them, Phi's head has a bias."""
    import transformers as tf

    common = {
        "vocab_size": 300,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "pad_token_id": 0,
        "initializer_range": 0.2,
    }
    for config in (
        tf.CohereConfig(**common, logit_scale=0.3, tie_word_embeddings=True),
        tf.GraniteConfig(**common, logits_scaling=3.0),
        tf.PhiConfig(**common),
    ):
        network = tf.AutoModelForCausalLM.from_config(config).eval()
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        sequences = forest(random.Random(11), depth=2)
        with torch.no_grad():
            states = answer_states(network, sequences, batch_tokens=400)
            torch.testing.assert_close(
                answer_logits(network, states, ANSWERS),
                pairwise(network, sequences)[:, ANSWERS],
                atol=1e-4,
                rtol=0,
            )


def test_answer_rows_are_fp32_in_a_bf16_model() -> None:
    network = tiny_network("llama").bfloat16()
    with torch.no_grad():
        states = answer_states(network, [(4, 5, 6), (4, 5, 7)], batch_tokens=100)
        logits = answer_logits(network, states, ANSWERS)
    assert states.dtype == torch.bfloat16
    assert logits.dtype == torch.float32
    expected = states.double() @ network.lm_head.weight[ANSWERS].double().T
    torch.testing.assert_close(logits.double(), expected, atol=1e-5, rtol=1e-5)


def test_nothing_and_empty_sequences(networks: dict[tuple[str, bool], Any]) -> None:
    network = networks["llama", True]
    assert answer_states(network, [], batch_tokens=100).shape == (0, 32)
    with pytest.raises(ValueError, match="empty"):
        answer_states(network, [(3, 4), ()], batch_tokens=100)


def test_counting() -> None:
    sequences = [(1, 2, 3), (1, 2, 4, 5), (1, 2), (1, 2, 3), (9,)]
    assert distinct_tokens(sequences) == 6
    stats = tree_stats(sequences)
    assert (stats.sequences, stats.tokens, stats.ratio) == (5, 13, 13 / 6)
    assert distinct_tokens([]) == 0
    assert tree_stats([]).ratio == 1.0


@given(
    st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=30).map(tuple), max_size=30),
    st.sampled_from([1, 8, 32, float("inf")]),
)
def test_the_tree_holds_every_sequence_once(sequences: list[Any], min_saved: float) -> None:
    ordered = sorted(set(sequences))
    found: dict[int, tuple[int, ...]] = {}

    def walk(nodes: list[tree.Node], stem: tuple[int, ...]) -> None:
        for node in nodes:
            assert node.tokens
            for offset, sequence in node.ends:
                assert sequence not in found
                found[sequence] = stem + node.tokens[: offset + 1]
            walk(node.children, stem + node.tokens)

    walk(tree.grow(ordered, min_saved), ())
    assert [found[index] for index in range(len(ordered))] == ordered


def test_kept_beginnings_change_no_state(networks: dict[tuple[str, bool], Any]) -> None:
    network = networks["llama", True]
    rng = random.Random(5)
    start = tuple(rng.randrange(3, 300) for _ in range(40))
    users = [start + tuple(rng.randrange(3, 300) for _ in range(30)) for _ in range(6)]
    prefix_cache = PrefixCache(200)
    asked = [
        [user + tuple(rng.randrange(3, 300) for _ in range(7)) for user in users[:3] * 2],
        [user + tuple(rng.randrange(3, 300) for _ in range(9)) for user in users * 2],
        [start[:20], start, users[0], users[0][:50]],
        [users[1] + (7,), users[1] + (8,), users[5]],
    ]
    with torch.no_grad():
        for sequences in asked:
            plain = answer_states(network, sequences, batch_tokens=256)
            kept = answer_states(network, sequences, batch_tokens=256, prefix_cache=prefix_cache)
            assert torch.allclose(plain, kept, atol=1e-4)


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The tokens of each pass."""
    found: list[int] = []

    def counted(decoder: Any, segments: Any, keep: Any, asked: Any) -> Any:
        found.append(sum(len(tokens) for tokens, _ in segments))
        return run_packed(decoder, segments, keep, asked)

    monkeypatch.setattr(tree, "run_packed", counted)
    return found


def test_what_is_kept_is_not_computed_again(
    networks: dict[tuple[str, bool], Any], computed: list[int]
) -> None:
    network = networks["llama", True]
    rng = random.Random(6)
    user = tuple(rng.randrange(3, 300) for _ in range(100))
    prefix_cache = PrefixCache(150)

    def ask(sequences: list[tuple[int, ...]]) -> int:
        computed.clear()
        with torch.no_grad():
            answer_states(network, sequences, batch_tokens=512, prefix_cache=prefix_cache)
        return sum(computed)

    candidates = [tuple(rng.randrange(3, 300) for _ in range(20)) for _ in range(4)]
    assert ask([user + one for one in candidates[:2]]) == 140
    assert ask([user + one for one in candidates[2:]]) == 40
    other = [user[:50] + one for one in candidates[:2]]
    assert ask(other) == 40
    stranger = tuple(rng.randrange(3, 300) for _ in range(120))
    ask([stranger + one for one in candidates[:2]])
    assert ask([user + one for one in candidates[:2]]) == 140


@pytest.mark.parametrize("shape", ["llama", "gemma2"])  # packed and padded
def test_a_pass_with_gradients_leaves_nothing_behind(
    networks: dict[tuple[str, bool], Any], shape: str
) -> None:
    """Keys that know of the pass that keeps them would live for ever: no collector sees it."""
    network, alive = networks[shape, True], []
    for seed in range(3):
        sequences = forest(random.Random(seed), depth=3)
        gradients(network, answer_states(network, sequences, batch_tokens=10_000).sum())
        gc.collect()
        alive.append(sum(issubclass(type(one), torch.Tensor) for one in gc.get_objects()))
    assert alive[2] == alive[1]


def test_users_who_come_back_together_each_go_on_behind_their_own(
    networks: dict[tuple[str, bool], Any], computed: list[int]
) -> None:
    network = networks["llama", True]
    rng = random.Random(8)

    def drawn(count: int) -> tuple[int, ...]:
        return tuple(rng.randrange(3, 300) for _ in range(count))

    prefix_cache = PrefixCache(1000)
    start = drawn(40)
    users = [start + drawn(30) for _ in range(5)]

    def ask(users: list[tuple[int, ...]]) -> int:
        computed.clear()
        sequences = [user + drawn(20) for user in users for _ in range(3)]
        with torch.no_grad():
            found = answer_states(network, sequences, batch_tokens=999, prefix_cache=prefix_cache)
            count = sum(computed)
            plain = answer_states(network, sequences, batch_tokens=999)
        assert torch.allclose(plain, found, atol=1e-4)
        return count

    assert ask(users[:3]) == 40 + 3 * (30 + 60)
    assert ask(users[:3]) == 3 * 60
    # two who came before, two new ones behind the instruction that all share
    assert ask(users[1:]) == 2 * 30 + 4 * 60
