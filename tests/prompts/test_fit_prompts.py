"""Fitting to the token budget: what is never cut, what goes first, and when it is refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trsr.errors import ConfigError, PromptError
from trsr.prompts import PromptSettings, PromptWriter
from trsr.types import Interaction, Item, Prompt, Query, Summary, UserHistory

Count = Callable[[Prompt], int]
T = TypeVar("T")


def words(prompt: Prompt) -> int:
    return sum(3 + len(message.content.split()) for message in prompt.messages)


def half_bytes(prompt: Prompt) -> int:
    return sum(5 + len(message.content.encode()) // 2 for message in prompt.messages)


def all_bytes(prompt: Prompt) -> int:
    return sum(len(message.content.encode()) for message in prompt.messages)


def pieces(prompt: Prompt) -> int:
    """Splits long words and marks, as learned vocabularies do."""
    return sum(
        4 + len(re.findall(r"\w{1,4}|[^\w\s]|\s{2,}", message.content))
        for message in prompt.messages
    )


counts = st.sampled_from([words, half_bytes, all_bytes, pieces])
values = st.text(max_size=60) | st.lists(
    st.sampled_from(["steel", "a", "{item}", "$candidate", "語語語語", "x" * 50, "<|im_end|>"]),
    max_size=30,
).map(" ".join)
items = st.builds(
    lambda number, fields: Item(f"id{number}", tuple(fields.items())),
    st.integers(0, 10**6),
    st.dictionaries(st.sampled_from(["title", "brand", "text"]), values, max_size=3),
)
histories = st.lists(items, max_size=6)


def history(of: list[Item]) -> UserHistory:
    return UserHistory("u", tuple(Interaction(item, float(n)) for n, item in enumerate(of)))


def writer(count: Count, tokens: int, reserve: int = 0, **chosen: object) -> PromptWriter:
    return PromptWriter(PromptSettings(**chosen), count, tokens, reserve)


def attempt(ask: Callable[[], T]) -> T | str:
    """What is written, or the words in which it is refused."""
    try:
        return ask()
    except PromptError as error:
        return str(error)


def query(past: list[Item], candidates: list[Item], summary: str = "") -> Query:
    one = Summary("u", summary, len(past)) if summary else None
    return Query("test/u/6", history(past), tuple(candidates), one)


@settings(max_examples=35)
@given(
    counts,
    st.integers(40, 1200),
    histories,
    st.lists(items, min_size=1, max_size=5, unique_by=lambda item: item.id),
    st.text(max_size=300),
)
def test_judge_prompts_fit_share_their_beginning_and_never_cut_the_candidate(
    count: Count, tokens: int, past: list[Item], candidates: list[Item], summary: str
) -> None:
    roomy = writer(count, 10**9)
    tight = writer(count, tokens, 8)
    asked = query(past, candidates, summary)
    whole = roomy.rank(asked)
    bare = roomy.rank(query([], candidates))
    prompts = attempt(lambda: tight.rank(asked))
    if isinstance(prompts, str):
        assert "test/u/6" in prompts
        assert max(map(count, bare)) + 40 > tokens - 8  # phrases for empty parts differ a little
        return
    assert len(prompts) == len(candidates)
    starts = set()
    for prompt, full, item in zip(prompts, whole, candidates, strict=True):
        assert count(prompt) <= tokens - 8
        assert prompt.messages[:-1] == full.messages[:-1]
        text = tight.item_text(item, tight.settings.words)
        assert prompt.messages[-1].content.endswith(text)
        starts.add((prompt.messages[:-1], prompt.messages[-1].content.removesuffix(text)))
    assert len(starts) == 1
    assert tight.written == len(prompts)
    assert tight.shortened == (0 if prompts == whole else len(prompts))


@settings(max_examples=35)
@given(counts, st.integers(20, 1500), st.lists(items, min_size=1, max_size=5), st.text())
def test_summary_prompts_fit_or_are_refused(
    count: Count, tokens: int, block: list[Item], summary: str
) -> None:
    tight, roomy = (writer(count, t, style="worked", domain="films") for t in (tokens, 10**9))
    for ask in (
        lambda one: one.write(block),
        lambda one: one.revise(summary, block),
        lambda one: one.merge([summary, "The user likes more.", summary]),
    ):
        prompt = attempt(partial(ask, tight))
        if isinstance(prompt, str):
            assert str(tokens) in prompt
            continue
        whole = ask(roomy)
        assert count(prompt) <= tokens
        assert count(whole) > tokens or prompt == whole
        assert [m for m in prompt.messages if m.role != "user"] == [
            m for m in whole.messages if m.role != "user"
        ]


FILMS = [Item(str(n), (("title", f"Film {n}"), ("story", "long " * 30))) for n in range(4)]


def told(tokens: int) -> str:
    small = writer(words, tokens, domain="films", recent=3, words=40)
    summary = "The user likes " + " ".join(f"theme{n}" for n in range(30)) + "."
    prompt = small.rank(query(FILMS[:3], [FILMS[3]], summary))[0]
    return prompt.messages[-1].content


def test_a_judge_prompt_loses_old_items_then_words_then_the_last_item_then_the_summarys_end() -> (
    None
):
    roomy = told(10**6)
    need = words(writer(words, 10**6, domain="films").rank(query([], [FILMS[3]]))[0])
    seen = [told(tokens) for tokens in range(need + 250, need, -1)]
    order = list(dict.fromkeys(seen))
    assert order[0] == roomy
    recent = [text.count("- title: Film") for text in order]
    assert recent == sorted(recent, reverse=True)
    assert {0, 1, 2, 3} == set(recent)
    for text in order:
        shared = text[: text.index("Next film")]
        if "Film 1" in shared:
            assert shared.count("long") in (60, 90)  # whole items while an older one is told
        if "- title" in shared:
            assert "theme29" in shared  # the summary is cut last
    with_last = [text[: text.index("Next film")] for text in order if text.count("- title") == 1]
    assert len({text.count("long") for text in with_last}) > 20
    assert all("Film 2" in text for text in with_last[:-1])  # the last is cut to a word a value
    assert "theme0 theme1" in order[-4]
    assert "theme29" not in order[-4]


def test_the_candidate_and_instruction_alone_too_long_are_refused_by_name_and_tokens() -> None:
    with pytest.raises(PromptError, match=r"query test/u/6: .* 7\d tokens .* room for 50"):
        writer(words, 58, 8, domain="films").rank(query(FILMS[:3], [FILMS[3]], "S."))


def test_values_are_cut_evenly_longest_first() -> None:
    block = [Item("1", (("title", "one two three"), ("story", "s " * 38 + "end")))]
    roomy = writer(words, 10**6, domain="films").write(block)
    tight = writer(words, words(roomy) - 20, domain="films").write(block)
    assert "title: one two three; story: " + "s " * 18 + "s" in tight.messages[-1].content
    assert "end" not in tight.messages[-1].content


def test_revise_cuts_the_items_before_the_summary() -> None:
    summary = "The customer wants " + "much " * 20 + "more."
    roomy = writer(words, 10**6, domain="products")
    need = words(roomy.revise(summary, FILMS[:2]))
    small = writer(words, need - 30, domain="products").revise(summary, FILMS[:2])
    assert summary in small.messages[-1].content
    smaller = writer(words, need - 70, domain="products").revise(summary, FILMS[:2])
    assert summary not in smaller.messages[-1].content
    assert "- title: Film; story: long" in smaller.messages[-1].content


def test_a_context_that_the_answer_fills_is_refused_at_once() -> None:
    with pytest.raises(ConfigError, match="no room"):
        writer(words, 96, 96)


def test_counting_is_spared_where_a_bound_is_enough() -> None:
    calls = []

    def count(prompt: Prompt) -> int:
        calls.append(prompt)
        return words(prompt)

    many = writer(count, 10**6)
    for n in range(50):
        many.rank(query(FILMS[:3], FILMS, f"Summary {n}."))
    assert len(calls) == 1  # the form itself
    tight = writer(count, 400)
    tight.rank(query(FILMS[:3], FILMS, "word " * 100))
    assert len(calls) < 20


def test_summaries_too_long_to_merge_are_each_cut_at_their_end() -> None:
    parts = [" ".join(f"{name}{n}" for n in range(30)) for name in "abc"]
    whole = words(writer(words, 10_000).merge(parts))
    prompt = writer(words, whole - 40).merge(parts)
    lines = [line.split() for line in prompt.messages[-1].content.splitlines()]
    kept = [
        line[1:]
        for line in lines
        if line[:1] == ["-"] and line[1].rstrip("…") in {"a0", "b0", "c0"}
    ]
    assert words(prompt) <= whole - 40
    assert [len(part) for part in kept] == [16, 16, 16]
    assert all(
        one.rstrip("…") == f"{name}{n}"
        for name, part in zip("abc", kept, strict=True)
        for n, one in enumerate(part)
    )
