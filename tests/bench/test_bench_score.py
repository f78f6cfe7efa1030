from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from benchmarks.engines import open_pairwise, open_tree
from benchmarks.options import ScoreOptions
from benchmarks.records import KEYS, Place
from benchmarks.score import agreement, bench_score, rank_correlation, synthetic
from benchmarks.tokens import padded_states, shared_prefixes
from trsr.errors import ConfigError
from trsr.models.token_tree.kv_cache import decoder_of
from trsr.models.token_tree.tokens import tree_stats
from trsr.progress import Silent

HERE = Place("cpu", "float32", 1e10)


@pytest.fixture
def result(tiny):
    options = ScoreOptions(prefix=40, rest=12, seed=3, repeats=3)
    load = synthetic(tiny, options, 2, 5)
    return bench_score(tiny, [load], options, Silent(), HERE)[0]


def test_records_are_whole_and_the_reference_is_one(result):
    pairwise, tree = (one for one in result.records if "openvino" not in one.variant)
    for record in (pairwise, tree):
        assert record.bench == "score"
        assert record.prompts == 10
        assert record.tokens == 10 * 52
        assert record.distinct_tokens == 2 * (40 + 5 * 12)
        assert record.token_ratio == pytest.approx(2.6)
        assert record.tokens_per_second == pytest.approx(520 / record.seconds)
        assert record.spread >= 0
        assert record.peak_share > 0
        assert record.peak_memory_bytes > 10_000_000
    assert pairwise.variant == "40+5x12/pairwise"
    assert pairwise.ratio == 1.0
    assert tree.ratio == pytest.approx(pairwise.seconds / tree.seconds)
    assert tree.variant == "40+5x12/tree"


def test_json_has_exactly_the_keys_that_were_promised(result):
    promised = (
        "bench variant device dtype prompts tokens distinct_tokens token_ratio seconds "
        "tokens_per_second ratio spread peak_share peak_memory_bytes"
    ).split()
    assert list(KEYS) == promised
    assert list(json.loads(result.records[0].to_json())) == promised


def test_random_prompts_part_where_the_prefix_ends():
    made = shared_prefixes(3, 10, 4, 6, vocabulary=50, seed=1)
    assert [len(query) for query in made] == [4, 4, 4]
    every = [tokens for query in made for tokens in query]
    assert {len(tokens) for tokens in every} == {16}
    assert tree_stats(every).distinct_tokens == 3 * (10 + 4 * 6)
    assert all(len({tokens[:10] for tokens in query}) == 1 for query in made)
    assert made == shared_prefixes(3, 10, 4, 6, vocabulary=50, seed=1)
    assert made != shared_prefixes(3, 10, 4, 6, vocabulary=50, seed=2)
    with pytest.raises(ValueError, match="cannot begin"):
        shared_prefixes(1, 10, 60, 6, vocabulary=50)


def test_padded_states_are_those_of_each_prompt_alone(tiny):
    draw = np.random.default_rng(0)
    sequences = [tuple(draw.integers(300, size=n).tolist()) for n in (9, 3, 14, 1, 7)]
    with torch.no_grad():
        found = padded_states(tiny.network, sequences, 2)
        for row, tokens in enumerate(sequences):
            alone = decoder_of(tiny.network)(input_ids=torch.tensor([tokens])).last_hidden_state
            torch.testing.assert_close(found[row], alone[0, -1], rtol=0, atol=1e-5)


def test_tree_scores_equal_pairwise_ones(tiny):
    load = synthetic(tiny, ScoreOptions(prefix=45, rest=20), 3, 6)
    pairwise = open_pairwise(tiny)(load.calls, load.answers)
    tree = open_tree(tiny)(load.calls, load.answers)
    assert pairwise.shape == (18, 2)
    np.testing.assert_allclose(tree, pairwise, rtol=0, atol=1e-4)
    # they tell prompts apart, or equality would say nothing
    assert np.std(pairwise[:, 0] - pairwise[:, 1]) > 0.01


def test_an_unknown_engine_is_refused_by_name(tiny):
    options = ScoreOptions(prefix=8, rest=2, variants=("tre",), repeats=1)
    with pytest.raises(ConfigError, match="did you mean tree"):
        bench_score(tiny, [synthetic(tiny, options, 1, 2)], options, Silent(), HERE)


def test_rank_correlation_is_spearmans():
    one, other = np.array([1.0, 5.0, 2.0, 9.0]), np.array([10.0, 40.0, 30.0, 20.0])
    assert rank_correlation(one, other) == pytest.approx(0.4)  # 1 - 6 (0 + 1 + 1 + 4) / 60
    assert rank_correlation(one, np.exp(one)) == pytest.approx(1.0)
    tied = np.array([1.0, 1.0, 2.0, 3.0])  # ranks 1.5, 1.5, 3, 4 against 1, 2, 3, 4
    assert rank_correlation(tied, np.arange(4.0)) == pytest.approx(4.5 / (4.5 * 5) ** 0.5)
    assert rank_correlation(np.ones(3), np.ones(3)) == 1.0
    assert rank_correlation(np.ones(3), np.arange(3.0)) == 0.0


def test_agreement_looks_within_each_query():
    reference = np.array([[1.0, 0.0], [2.0, 0.0], [10.0, 0.0], [9.0, 0.0]])
    turned = np.array([[2.0, 0.0], [1.0, 0.0], [10.0, 0.0], [9.5, 0.0]])
    assert "difference of a score 1," in agreement("x", turned, reference, (2, 2))
    assert "within a query 0.00000" in agreement("x", turned, reference, (2, 2))
