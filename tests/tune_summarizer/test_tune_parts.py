"""The parts of tuning: what is drawn, how it is judged, what is kept, and what is decided."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trsr.data import Dataset
from trsr.llm import ModelSettings, open_model
from trsr.llm.base import Sampling
from trsr.llm.scripted import ScriptedModel
from trsr.progress import Silent
from trsr.prompts import PromptSettings, PromptWriter
from trsr.rank import YesNoRanker
from trsr.summarize import SummarizeSettings
from trsr.train.examples import Written
from trsr.tune_summarizer.judging import judge_summaries, log_likelihood
from trsr.tune_summarizer.keeping import Kept, best_of, keep, read_kept, write_kept
from trsr.tune_summarizer.result import LIKELIHOOD, Round, decide, measure
from trsr.tune_summarizer.samples import (
    Sample,
    draw_cases,
    draw_summaries,
    draw_users,
    samplings,
)
from trsr.types import (
    Case,
    Entry,
    Interaction,
    Item,
    Message,
    Prompt,
    Query,
    RankedList,
    Summary,
    UserHistory,
)

PROMPT = Prompt((Message("user", "Summarize."),))


def sample(text: str) -> Sample:
    return Sample(Summary("u", text, 1, ("k",)), (Written("q", PROMPT, text),) if text else ())


@given(
    st.lists(st.floats(-9, 0), min_size=1, max_size=6),
    st.floats(-9, 0),
    st.floats(0, 3),
)
def test_the_kept_sample_has_the_highest_likelihood_and_beats_the_reference(
    found, reference, margin
):
    samples = [sample(f"text {place}") for place in range(len(found))]
    kept = keep("q", samples, found, reference=reference, margin=margin)
    if kept is None:
        assert max(found) - reference <= margin
    else:
        assert kept.log_likelihood == max(found) > reference + margin - 1e-12
        assert found[int(kept.text.removeprefix("text "))] == max(found)


def test_a_best_sample_that_says_nothing_is_not_kept():
    assert keep("q", [sample("a"), sample("")], [-2.0, -1.0], reference=-3, margin=0) is None


def test_of_several_rounds_each_user_keeps_the_best():
    def one(query, likelihood):
        return Kept(query, "t", likelihood, -2.0, "", ())

    found = best_of(
        {"b": one("b", -1.0), "c": one("c", -1.0)}, {"a": one("a", -1), "b": one("b", -0.5)}
    )
    assert [(name, k.log_likelihood) for name, k in found.items()] == [
        ("a", -1),
        ("b", -0.5),
        ("c", -1.0),
    ]


def test_kept_samples_come_back_as_they_were_written(tmp_path):
    text = 'Likes\u2028 "films" — and\x0b seas.\n'
    one = Kept("q", text, -0.5, -1.0, "greedy", (Written("q", PROMPT, text, False),))
    write_kept(tmp_path / "kept.jsonl", {"q": one})
    assert read_kept(tmp_path / "kept.jsonl") == {"q": one}


def test_the_log_likelihood_is_the_log_softmax_of_the_margins_over_the_candidates():
    ranked = RankedList("q", tuple(Entry(i, s) for i, s in (("a", 2.0), ("b", 1.0), ("c", -1.0))))
    total = math.log(math.exp(2) + math.exp(1) + math.exp(-1))
    assert log_likelihood(ranked, frozenset("b")) == pytest.approx(1 - total)
    assert log_likelihood(ranked, frozenset("ac")) == pytest.approx((2 - 1) / 2 - total)
    far = RankedList("q", (Entry("a", 5000.0), Entry("b", -5000.0)))
    assert log_likelihood(far, frozenset("a")) == 0
    assert log_likelihood(far, frozenset("b")) == -10000


def history(user: str, n: int) -> UserHistory:
    items = (Item(f"{user}{place}", (("title", f"thing {place} of {user}"),)) for place in range(n))
    return UserHistory(user, tuple(Interaction(item, 0.0) for item in items))


def test_what_is_learned_is_what_was_written_on_the_way_to_the_summary():
    said = iter(["likes bolts. And nuts", "likes bolts and lamps", "both."])
    model = ScriptedModel(lambda prompt: next(said), in_flight=1, context_tokens=4000)
    writer = PromptWriter(PromptSettings(), model.count_tokens, 4000)
    settings = SummarizeSettings(strategy="recurrent", block_items=2)
    found = draw_summaries(
        [("q", history("u", 5))], model=model, writer=writer, settings=settings, progress=Silent()
    )
    texts = [(one.text, one.whole) for one in found["q"].written]
    assert texts == [("likes bolts.", True), ("likes bolts and lamps", False), ("both.", True)]
    # a text's prompt is the one that was asked: the second holds the first summary
    assert "likes bolts." in found["q"].written[1].prompt.messages[-1].content
    assert found["q"].summary.text == "both."
    assert {one.query for one in found["q"].written} == {"q"}


def test_a_begun_answer_is_not_learned_again():
    model = ScriptedModel(lambda prompt: " bolts and nuts. More", context_tokens=4000)
    prompts = PromptSettings(domain="products", style="worked")
    writer = PromptWriter(prompts, model.count_tokens, 4000)
    (found,) = draw_summaries(
        [("q", history("u", 2))],
        model=model,
        writer=writer,
        settings=SummarizeSettings(),
        progress=Silent(),
    ).values()
    (one,) = found.written
    assert one.text == " bolts and nuts."
    assert found.summary.text == f"{one.prompt.begun}{one.text}"


def test_samples_do_not_depend_on_the_order_of_the_users(tiny_model, one_thread):
    pytest.importorskip("torch", reason="the extra `local` is not installed")
    model = open_model(ModelSettings(name=str(tiny_model), dtype="float32", device="cpu"))
    writer = PromptWriter(PromptSettings(), model.count_tokens, 1024, 8)
    (drawn, other) = samplings(Sampling(max_tokens=8), 3, 1, 2, temperature=1.5)
    histories = [(f"q{n}", history(f"u{n}", 4)) for n in range(5)]

    def texts(order, sampling):
        found = draw_summaries(
            order,
            model=model,
            writer=writer,
            settings=SummarizeSettings(sampling=sampling),
            progress=Silent(),
        )
        return {key: one.summary.text for key, one in found.items()}

    once = texts(histories, drawn)
    assert texts(histories[3:], drawn).items() <= once.items()
    assert texts(histories[::-1], drawn) == once
    assert texts(histories, other) != once


def test_one_case_a_user_is_drawn_and_other_users_change_no_lot(prepared):
    config = prepared()
    cases = Dataset.load(config.run.folder).cases("train")
    drawn = draw_users(cases, 6, 1)
    assert len({case.query.history.user for case in drawn}) == len(drawn) == 6
    assert draw_users(cases, 6, 1) == drawn
    assert draw_users(cases, 6, 2) != drawn
    more = draw_users(cases, 9, 1)
    assert [case for case in more if case in drawn] == drawn
    assert len(draw_cases(cases, 0, 1)) == len(cases)


def case(number: int) -> Case:
    items = tuple(Item(f"i{n}", (("title", f"thing {n}"),)) for n in range(3))
    return Case(Query(f"valid/u{number}/2", history(f"u{number}", 2), items), frozenset({"i1"}))


def test_summaries_are_judged_each_for_itself():
    """The judge is surest of thing 1 where the summary names it."""

    def scores(prompt, answer):
        told, _, candidate = prompt.messages[-1].content.rpartition("\n")
        sure = float("thing 1" in candidate and "likes thing 1" in told)
        return sure if answer == "Yes" else -sure

    model = ScriptedModel(scores=scores, context_tokens=4000)
    ranker = YesNoRanker(model, PromptWriter(PromptSettings(), model.count_tokens, 4000), 3)
    cases = [case(n) for n in range(4)]
    good = {c.query.id: Summary(c.query.history.user, "likes thing 1.", 2) for c in cases}
    bad = {c.query.id: Summary(c.query.history.user, "likes the sea.", 2) for c in cases}
    right, wrong = judge_summaries(ranker, cases, [good, bad], Silent())
    assert list(right) == list(wrong) == [c.query.id for c in cases]
    for one in cases:
        assert log_likelihood(wrong[one.query.id], one.relevant) == pytest.approx(-math.log(3))
        assert log_likelihood(right[one.query.id], one.relevant) == pytest.approx(
            2 - math.log(math.exp(2) + 2)
        )
    found = measure(cases, wrong, right)
    assert found["auc"]["untuned"] == 0.5
    assert found["auc"]["tuned"] == 1
    assert found["auc"]["difference"] == 0.5
    assert found[LIKELIHOOD]["users"] == 4
    assert found[LIKELIHOOD]["difference"] == pytest.approx(2 - math.log((math.exp(2) + 2) / 3))


def round_(number: int, difference: float | None, p: float | None) -> Round:
    told = {LIKELIHOOD: {"difference": difference, "p": p}} if difference is not None else {}
    return Round(number, users=9, spread=0.1, measured=told)


@pytest.mark.parametrize(
    ("rounds", "significant", "kept", "why"),
    [
        ([(0.2, 0.01), (0.3, 0.02)], True, 2, "is better"),
        ([(0.2, 0.01), (0.3, 0.05)], True, 0, "no significant gain"),
        ([(0.2, 0.4), (0.3, 0.5)], False, 2, "is better"),
        ([(-0.2, 0.001)], True, 0, "no better"),
        ([(-0.2, 0.001)], False, 0, "no better"),
        ([(0.4, None)], True, 0, "no significant gain"),
        ([(None, None)], True, 0, "nothing was trained"),
        ([(0.2, 0.03), (None, None)], True, 1, "is better"),
    ],
)
def test_the_best_round_is_kept_only_where_it_is_better(tmp_path, rounds, significant, kept, why):
    # of two rounds the p-values count double: .02 becomes .02 (the larger), .05 stays too much
    found = [round_(n, *one) for n, one in enumerate(rounds, 1)]
    tuned = decide(tmp_path, found, significant=significant)
    assert tuned.kept == kept
    assert why in tuned.why
