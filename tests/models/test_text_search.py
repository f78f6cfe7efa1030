"""How likely texts are, and the search for the likeliest: nothing is drawn, nothing invented."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from trsr.errors import PromptError
from trsr.models import ModelSettings, open_model
from trsr.models.cached import CachedTextScoringModel
from trsr.models.text_search import Search, search
from trsr.storage.response_cache import ResponseCache
from trsr.types import Message, Prompt

TEXTS = ["steel", "steel bolts", "steel bolts, a pack", "the sea", "quiet films", "ten", "Yes"]


def prompt(*titles: str) -> Prompt:
    return Prompt((Message("system", "Write the next."), Message("user", "\n".join(titles))))


PROMPTS = [prompt("1. the sea", "2. bolts"), prompt("1. films"), prompt()]


@pytest.fixture(scope="module")
def model(tiny_model, one_thread):
    return open_model(ModelSettings(name=str(tiny_model), dtype="float32", device="cpu"))


def plain(model, asked: Prompt, text: str) -> tuple[float, int]:
    """The log-probability of a text and its end, by one pass over it alone."""
    stem, answer = model.encode_text(asked, text)
    tokens = torch.tensor([[*stem, *answer]])
    with torch.no_grad():
        steps = model.network(tokens).logits[0].double().log_softmax(-1)
    places = range(len(stem) - 1, tokens.shape[1] - 1)
    return sum(float(steps[at, tokens[0, at + 1]]) for at in places), len(answer)


def test_a_text_scores_as_a_plain_pass_over_it_with_its_end(model):
    found = model.score_texts(PROMPTS, [TEXTS] * 3)
    for asked, table in zip(PROMPTS, found, strict=True):
        assert table == pytest.approx(np.array([plain(model, asked, t) for t in TEXTS]), abs=1e-4)


def test_as_many_beams_as_texts_find_them_all_at_their_scores(model):
    scored = model.score_texts(PROMPTS, [TEXTS] * 3)
    found = model.search_texts(PROMPTS, [TEXTS] * 3, len(TEXTS))
    for one, table in zip(found, scored, strict=True):
        assert one == pytest.approx(table[:, 0], abs=1e-4)


@pytest.mark.parametrize("beams", [1, 2, 4])
def test_fewer_beams_find_fewer_texts_at_the_same_scores(model, beams):
    scored = model.score_texts(PROMPTS, [TEXTS] * 3)
    for one, table in zip(model.search_texts(PROMPTS, [TEXTS] * 3, beams), scored, strict=True):
        there = np.isfinite(one)
        assert 1 <= there.sum() <= beams
        assert one[there] == pytest.approx(table[there, 0], abs=1e-4)


def test_texts_in_another_order_and_other_neighbours_change_no_score(model):
    first = dict(zip(TEXTS, model.search_texts(PROMPTS[:1], [TEXTS], 3)[0], strict=True))
    order = sorted(TEXTS, reverse=True)
    again = model.search_texts([PROMPTS[1], PROMPTS[0]], [TEXTS, order], 3)[1]
    assert dict(zip(order, again, strict=True)) == pytest.approx(first, abs=1e-5)


def test_chances_shared_out_at_each_branch_sum_to_one():
    texts = sorted([(1, 9), (1, 2, 9), (1, 2, 3, 9), (2, 9), (2, 4, 9), (5, 6, 7, 9)])
    draw = np.random.default_rng(0)

    def shared(sequences, tokens):
        found = np.full((len(sequences), len(tokens)), -np.inf)
        for row, one in enumerate(sequences):
            nexts = {t[len(one)] for t in texts if t[: len(one)] == one and len(t) > len(one)}
            chances = draw.dirichlet(np.ones(len(nexts)))
            for token, chance in zip(sorted(nexts), chances, strict=True):
                found[row, tokens.index(token)] = math.log(chance)
        return found

    one = Search((), texts, len(texts))
    search([one], shared)
    assert len(one.found) == len(texts)
    assert sum(map(math.exp, one.found.values())) == pytest.approx(1)


def test_one_beam_follows_the_likeliest_token():
    texts = [(1, 2, 9), (1, 3, 9), (4, 5, 9)]
    likely = {1: -0.5, 4: -0.9, 2: -3.0, 3: -2.0, 5: -0.1, 9: 0.0}
    one = Search((0,), texts, 1)
    search([one], lambda rows, tokens: np.array([[likely[t] for t in tokens] for _ in rows]))
    assert one.found == {1: pytest.approx(-2.5)}


def test_a_second_question_asks_nothing(model, tmp_path):
    with ResponseCache(tmp_path / "out.sqlite") as store:
        first = CachedTextScoringModel(model, store)
        scored = first.score_texts(PROMPTS, [TEXTS[:3], TEXTS, TEXTS])
        found = first.search_texts(PROMPTS, [TEXTS] * 3, 3)
        again = CachedTextScoringModel(model, store)
        for one, other in zip(again.score_texts(PROMPTS, [TEXTS[:3]] * 3), scored, strict=True):
            assert np.array_equal(one, other[:3])
        for one, other in zip(again.search_texts(PROMPTS, [TEXTS] * 3, 3), found, strict=True):
            assert np.array_equal(one, other)
        assert (first.counts.asked, again.counts.asked) == (17 + 3, 0)
        assert again.counts.hits == 9 + 3


def test_a_text_that_does_not_fit_is_refused(tiny_model):
    small = ModelSettings(name=str(tiny_model), dtype="float32", device="cpu", context_tokens=64)
    with pytest.raises(PromptError, match="context_tokens"):
        open_model(small).score_texts(PROMPTS[:1], [["steel bolts " * 20]])


def test_no_text_is_no_question(model):
    assert [one.shape for one in model.score_texts(PROMPTS, [[], TEXTS, []])] == [
        (0, 2),
        (7, 2),
        (0, 2),
    ]
    assert model.search_texts(PROMPTS[:1], [[]], 5)[0].shape == (0,)
