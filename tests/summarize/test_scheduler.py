"""The scheduler runs the flows of all users through one model, in any order, losing nothing."""

from __future__ import annotations

import hashlib
import itertools
import logging
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trsr.config import check_config
from trsr.errors import ConfigError, ModelError, PromptError
from trsr.models import ModelSettings, open_model
from trsr.models.base import Feed, Sampling
from trsr.models.scripted import ScriptedModel
from trsr.progress import Silent
from trsr.prompts import PromptSettings, PromptWriter
from trsr.storage.response_cache import response_key
from trsr.summarize import SummarizeSettings, scheduler, summarize
from trsr.types import Interaction, Item, Message, Prompt, Summary, UserHistory

ITEM = re.compile(r"(u\d+|common) \d+")


def history(user: str, count: int, shared: int = 0) -> UserHistory:
    """Items of the user's own, the first `shared` of them everybody's."""
    names = [f"common {n}" if n < shared else f"{user} {n}" for n in range(count)]
    items = [Item(name, (("title", name),)) for name in names]
    return UserHistory(user, tuple(Interaction(item, float(n)) for n, item in enumerate(items)))


def keyed(lengths: list[int], shared: int = 0) -> list[tuple[str, UserHistory]]:
    return [(f"q{n}", history(f"u{n}", count, shared)) for n, count in enumerate(lengths)]


def echo(prompt: Prompt) -> str:
    """Names all that was asked about, so that a summary tells how it was made."""
    lines = prompt.messages[-1].content.splitlines()
    told = [line.removeprefix("- ").removeprefix("title: ") for line in lines if ITEM.search(line)]
    return f"[{' '.join(told)}]"


def run(
    histories: Any, model: Any = None, progress: Any = None, tokens: int = 10**6, **chosen: Any
) -> dict[str, Summary]:
    model = model or ScriptedModel(echo, context_tokens=tokens)
    writer = PromptWriter(PromptSettings(domain="generic"), model.count_tokens, tokens, 96)
    chosen = {"block_items": 2, "fan_in": 2} | chosen
    told = summarize(
        histories,
        model=model,
        writer=writer,
        settings=SummarizeSettings(**chosen),
        sampling=Sampling(max_tokens=10**6),
        progress=progress or Silent(),
    )
    found = list(told)
    assert len({key for key, _ in found}) == len(found)
    return dict(found)


class Noted(ScriptedModel):
    """A scripted model that keeps what it was asked."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, context_tokens=10**6, **named)
        self.prompts: list[Prompt] = []
        self.calls = 0

    def generate(self, prompts: Feed, sampling: Sampling) -> Iterator[tuple[int, str]]:
        def noted() -> Iterator[Prompt | None]:
            for prompt in prompts:
                if prompt is not None:
                    self.prompts.append(prompt)
                yield prompt

        self.calls += 1
        return super().generate(noted(), sampling)


strategies = st.sampled_from(["hierarchical", "recurrent"])


@settings(max_examples=35)
@given(
    st.lists(st.integers(0, 9), max_size=12),
    st.integers(0, 5),
    strategies,
    st.integers(1, 40),
    st.integers(0, 10**6),
    st.randoms(use_true_random=False),
)
def test_summaries_do_not_depend_on_order_batch_size_or_company(
    lengths: list[int], shared: int, strategy: str, in_flight: int, seed: int, random: Any
) -> None:
    histories = keyed(lengths, shared)
    one_by_one: dict[str, Summary] = {}
    for pair in histories:
        alone = ScriptedModel(echo, context_tokens=10**6, in_flight=1)
        one_by_one |= run([pair], alone, strategy=strategy)
    random.shuffle(histories)
    model = ScriptedModel(echo, context_tokens=10**6, in_flight=in_flight, shuffle=seed)
    assert run(histories, model, strategy=strategy) == one_by_one


@pytest.mark.parametrize("strategy", ["hierarchical", "recurrent"])
def test_a_summary_says_what_it_covers_and_which_answers_made_it(strategy: str) -> None:
    model = Noted(echo, in_flight=3)
    sampling = Sampling(max_tokens=10**6)
    (summary,) = run(keyed([7]), model, strategy=strategy).values()
    kind = {"generate": sampling.model_dump()}
    assert summary.user == "u0"
    assert summary.covers == 7
    assert sorted(summary.sources) == sorted(
        response_key(model.identity, prompt, kind) for prompt in model.prompts
    )
    for n in range(7):
        assert f"u0 {n}" in summary.text


def test_the_order_of_sources_is_the_order_of_asking() -> None:
    model = Noted(echo, in_flight=1)
    (summary,) = run(keyed([7]), model, strategy="recurrent").values()
    kind = {"generate": Sampling(max_tokens=10**6).model_dump()}
    keys = tuple(response_key(model.identity, prompt, kind) for prompt in model.prompts)
    assert summary.sources == keys


def test_full_blocks_only_leave_the_rest_unread() -> None:
    found = run(keyed([1, 2, 5]), last_block=False)
    assert [found[key].covers for key in ("q0", "q1", "q2")] == [0, 2, 4]
    assert found["q0"] == Summary("u0", "", 0)
    assert "u2 4" not in found["q2"].text


@pytest.mark.parametrize("strategy", ["hierarchical", "recurrent"])
def test_targets_of_one_open_block_have_the_same_summary_without_more_work(strategy: str) -> None:
    lengths = range(4, 10)
    grown = [(f"q{count}", history("u0", count)) for count in lengths]
    model, once = Noted(echo), Noted(echo)
    chosen = {"strategy": strategy, "last_block": False, "block_items": 3, "fan_in": 5}
    found = run(grown, model, **chosen)
    assert [found[f"q{count}"].covers for count in lengths] == [3, 3, 6, 6, 6, 9]
    assert len(set(found.values())) == 3
    for count in (3, 6, 9):
        run([(f"q{count}", history("u0", count))], once, **chosen)
    assert set(model.prompts) == set(once.prompts)


def test_a_history_without_interactions_and_the_strategy_none_ask_nothing() -> None:
    model = Noted(echo)
    assert run(keyed([0]), model) == {"q0": Summary("u0", "", 0)}
    none = run(keyed([5, 3]), model, strategy="none")
    assert none == {"q0": Summary("u0", "", 0), "q1": Summary("u1", "", 0)}
    assert model.calls == 0


def test_one_call_of_the_model_serves_all_users() -> None:
    model = Noted(echo, in_flight=4)
    assert len(run(keyed([5, 0, 7, 1] * 20), model)) == 80
    assert model.calls == 1


def test_steps_of_many_users_run_side_by_side() -> None:
    """Eight users of four steps each: a model of eight places is never left half empty."""
    waits: list[int] = []

    class Counting(ScriptedModel):
        def generate(self, prompts: Feed, sampling: Sampling) -> Iterator[tuple[int, str]]:
            taken = 0

            def counted() -> Iterator[Prompt | None]:
                nonlocal taken
                for prompt in prompts:
                    taken += prompt is not None
                    yield prompt

            for done, answer in enumerate(super().generate(counted(), sampling)):
                waits.append(taken - done)
                yield answer

    run(keyed([8] * 8), Counting(echo, context_tokens=10**6, in_flight=8), strategy="recurrent")
    assert waits[:25] == [8] * 25


def test_identical_prompts_under_way_are_asked_once() -> None:
    model = Noted(echo, in_flight=50)
    found = run(keyed([2] * 10, shared=2), model)
    assert len(model.prompts) == 1
    assert {(one.text, one.sources) for one in found.values()} == {
        (found["q0"].text, found["q0"].sources)
    }


def test_histories_are_taken_only_as_they_are_needed() -> None:
    begun = itertools.count()

    def endless() -> Iterator[tuple[str, UserHistory]]:
        for n in itertools.count():
            next(begun)
            yield f"q{n}", history(f"u{n}", 6)

    model = ScriptedModel(echo, context_tokens=10**6, in_flight=4)
    writer = PromptWriter(PromptSettings(), model.count_tokens, 10**6)
    told = summarize(
        endless(),
        model=model,
        writer=writer,
        settings=SummarizeSettings(block_items=2),
        sampling=Sampling(),
        progress=Silent(),
    )
    list(itertools.islice(told, 20))
    assert next(begun) < 30


def greedy(prompts: Feed) -> list[Prompt]:
    """Everything that a feed gives before it says that nothing is ready."""
    return list(itertools.takewhile(lambda prompt: prompt is not None, iter(prompts)))  # type: ignore[arg-type]


def test_a_model_that_takes_all_it_can_get_is_given_a_bounded_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scheduler, "LIVE", 10)
    most = []

    class Greedy(ScriptedModel):
        def generate(self, prompts: Feed, sampling: Sampling) -> Iterator[tuple[int, str]]:
            position = 0
            feed = iter(prompts)
            while batch := greedy(feed):
                most.append(len(batch))
                for prompt in batch:
                    yield position, echo(prompt)
                    position += 1

    found = run(keyed([3] * 50), Greedy(context_tokens=10**6))
    assert len(found) == 50
    assert max(most) <= 20


def test_users_without_a_question_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "LIVE", 5)
    lengths = [4, *[0] * 57, 4, *[0] * 13]
    found = run(keyed(lengths))
    assert [len(found), sum(bool(one.text) for one in found.values())] == [len(lengths), 2]


def test_progress_advances_with_each_summary() -> None:
    class Counted(Silent):
        def __init__(self) -> None:
            self.steps = 0

        def advance(self, steps: int = 1, note: str = "") -> None:
            self.steps += steps

    progress = Counted()
    run(keyed([0, 3, 5]), progress=progress)
    assert progress.steps == 3


def test_an_empty_answer_is_logged_and_leaves_the_rest(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def silent_on_two(prompt: Prompt) -> str:
        return "" if "u0 2" in prompt.messages[-1].content else echo(prompt)

    with caplog.at_level(logging.WARNING):
        found = run(keyed([4, 4]), ScriptedModel(silent_on_two, context_tokens=10**6))
    assert "u0 0" in found["q0"].text
    assert "1 of " in caplog.text
    with caplog.at_level(logging.WARNING):
        mute = run(keyed([4]), ScriptedModel(lambda prompt: " \n", context_tokens=10**6))
    assert (mute["q0"].text, mute["q0"].covers) == ("", 0)
    assert mute["q0"].sources


def test_a_prompt_that_cannot_fit_names_the_history_the_user_and_the_tokens() -> None:
    with pytest.raises(PromptError, match=r"q0 \(user u0\): .* tokens"):
        run(keyed([3]), tokens=100)


def test_an_unknown_strategy_is_an_error_with_near_names() -> None:
    with pytest.raises(ConfigError, match="did you mean recurrent"):
        run(keyed([3]), strategy="recurent")


Answers = Iterator[tuple[int, str]]


def broken(generate: Callable[[Feed], Answers]) -> ScriptedModel:
    class Broken(ScriptedModel):
        def generate(self, prompts: Feed, sampling: Sampling) -> Answers:
            return generate(prompts)

    return Broken(context_tokens=10**6)


def twice(prompts: Feed) -> Answers:
    next(iter(prompts))
    yield 0, "A."
    yield 0, "B."


def never(prompts: Feed) -> Answers:
    next(iter(prompts))
    yield from ()


def unasked(prompts: Feed) -> Answers:
    next(iter(prompts))
    yield 7, "A."


def too_soon(prompts: Feed) -> Answers:
    next(iter(prompts))
    yield 0, "A."


@pytest.mark.parametrize(
    ("generate", "words"),
    [
        (twice, "not under way"),
        (never, "1 prompts unanswered"),
        (unasked, "prompt 7"),
        (too_soon, "not taken"),
    ],
)
def test_a_model_that_does_not_answer_each_prompt_once_is_refused(
    generate: Callable[[Feed], Answers], words: str
) -> None:
    with pytest.raises(ModelError, match=words):
        run(keyed([4]), broken(generate))


# --- A text of a prompt that is sampled several times


def test_a_draw_has_a_key_and_random_numbers_of_its_own_and_the_first_those_of_before():
    first, second = Prompt((Message("user", "hi"),)), Prompt((Message("user", "hi"),), 1)
    assert response_key("m", first, {}) != response_key("m", second, {})
    before = '{"kind":{},"model":"m","prompt":[["user","hi"]]}'
    assert response_key("m", first, {}) == hashlib.sha256(before.encode()).hexdigest()
    assert first.seed_parts == ("user", "hi")
    assert second.seed_parts != first.seed_parts


def test_greedy_texts_keep_their_keys_and_sampled_ones_follow_the_runs_seed(tiny_model):
    model = open_model(ModelSettings(name=str(tiny_model), dtype="float32", device="cpu"))
    prompt = Prompt((Message("user", "tea and lamps?"),))

    def asked(temperature: float, seed: int) -> tuple[str, str]:
        values = {"data": {"interactions": "a.csv"}, "run": {"seed": seed}}
        sampling = {"max_tokens": 12, "temperature": temperature}
        config = check_config(values | {"summarize": {"sampling": sampling}})
        ((_, text),) = model.generate([prompt], config.summary_sampling)
        kind = {"generate": config.summary_sampling.model_dump()}
        return text, response_key(model.identity, prompt, kind)

    greedy = asked(0.0, seed=1)
    assert greedy == asked(0.0, seed=2)
    before = {"generate": Sampling(max_tokens=12).model_dump() | {"seed": 0}}
    assert greedy[1] == response_key(model.identity, prompt, before)
    first, again, other = (asked(1.5, seed) for seed in (1, 1, 2))
    assert first == again
    assert first[0] != other[0]
    assert first[1] != other[1]
