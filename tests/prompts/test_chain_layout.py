"""The layout `chain`: what a user's successive targets have in common, in words and in tokens."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_tokenizer

from trsr.errors import ConfigError
from trsr.prompts import PromptSettings, PromptWriter, domains, load_domain
from trsr.prompts.text import fold
from trsr.types import Interaction, Item, Message, Prompt, Query, Summary, UserHistory

ROOM = 10**6


def words(prompt: Prompt) -> int:
    return sum(3 + len(message.content.split()) for message in prompt.messages)


def writer(tokens: int = ROOM, **chosen: Any) -> PromptWriter:
    chosen = {"layout": "chain"} | chosen
    return PromptWriter(PromptSettings(**chosen), words, tokens)


def history(items: list[Item]) -> UserHistory:
    return UserHistory("u", tuple(Interaction(item, float(n)) for n, item in enumerate(items)))


def film(number: int, story: int = 0) -> Item:
    title = (("title", f"Film {number}"),)
    return Item(str(number), title + ((("story", "long " * story),) if story else ()))


def target(films: list[Item], at: int, covers: int, text: str = "The user likes A.") -> Query:
    """The film at a place as the only candidate, after those before it."""
    summary = Summary("u", text, covers) if covers else None
    return Query(f"train/u/{at}", history(films[:at]), (films[at],), summary)


def section(prompt: Prompt, candidate: str, empty: str) -> str:
    """The last message up to where the candidate's section begins, and what is said of no items."""
    said = prompt.messages[-1].content
    start = said[: said[: said.rindex(candidate)].rindex("\n") + 1]
    return start.removesuffix(f"{empty}\n") if start.endswith(f"\n{empty}\n") else start


def shared(one: str, other: str) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


def told(prompt: Prompt) -> list[str]:
    lines = prompt.messages[-1].content.splitlines()
    return [line.removeprefix("- title: ") for line in lines if line.startswith("- ")]


FILMS = [film(number) for number in range(12)]


def test_all_items_since_the_summary_are_told_oldest_first() -> None:
    chain = writer(domain="films", recent=1)
    assert told(chain.judge(target(FILMS, 9, 5))[0]) == [f"Film {n}" for n in (5, 6, 7, 8)]
    assert told(chain.judge(target(FILMS, 5, 5))[0]) == []
    assert told(chain.judge(target(FILMS, 3, 0))[0]) == [f"Film {n}" for n in range(3)]
    overlapping = writer(domain="films", overlap=2)
    assert told(overlapping.judge(target(FILMS, 6, 5))[0]) == [f"Film {n}" for n in (3, 4, 5)]
    untold = writer(domain="films", use_summary=False)  # then the items before it are not lost
    assert told(untold.judge(target(FILMS, 6, 5))[0]) == [f"Film {n}" for n in range(6)]


def test_each_target_s_prompt_goes_on_where_the_one_before_ends() -> None:
    chain = writer(domain="films")
    empty = load_domain("films").no_recent
    prompts = [chain.judge(target(FILMS, at, 5))[0] for at in range(5, 10)]
    starts = [section(p, f"title: Film {n}", empty) for n, p in enumerate(prompts, 5)]
    for n, (start, later) in enumerate(itertools.pairwise(starts), 5):
        assert later == f"{start}- title: Film {n}\n"  # the taken item is the next line


def gpt2() -> Any:
    return tiny_tokenizer()


def llama3() -> Any:
    """The words of Llama 3, Qwen and Mistral: marks take the newlines after them along."""
    from tokenizers import Regex, pre_tokenizers

    tokenizer = tiny_tokenizer()
    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
        r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return tokenizer


def llama2() -> Any:
    """SentencePiece's way: one run of symbols, spaces as a mark, newlines as bytes."""
    from tokenizers import Tokenizer, decoders, models, normalizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE(byte_fallback=True))
    inner.normalizer = normalizers.Replace(" ", "▁")
    inner.decoder = decoders.ByteFallback()
    codes = ["<s>", "</s>", *(f"<0x{n:02X}>" for n in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=codes, show_progress=False)
    texts = ["- title: The long film; genres: drama", "Watched last:", "Next film: title: a"]
    inner.train_from_iterator(texts * 4, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=inner)


values = st.text(max_size=30) | st.lists(
    st.sampled_from(
        "The long film. - --- (2001) 語語 e\u0301 \u0301 🎬 <|im_end|> $candidate \u200d 's".split()
    ),
    max_size=8,
).map(" ".join)
items = st.builds(
    lambda fields: tuple(fields.items()),
    st.dictionaries(st.sampled_from(["title", "genres"]), values, max_size=2),
)


@pytest.mark.parametrize("make", [gpt2, llama3, llama2])
def test_what_stands_before_the_candidate_is_a_token_prefix_of_the_next_target_s_prompt(
    make: Callable[[], Any],
) -> None:
    pytest.importorskip("torch", reason="the extra `local` is not installed")
    from trsr.llm.layout import Layout

    layout = Layout(make(), "tiny")

    @settings(max_examples=60, deadline=None)
    @given(
        st.lists(items, min_size=3, max_size=6),
        st.sampled_from(domains()),
        st.integers(0, 2),
        values,
    )
    def check(texts: list[tuple[tuple[str, str], ...]], domain: str, covers: int, said: str):
        films = [Item(str(n), fields) for n, fields in enumerate(texts)]
        chain = PromptWriter(
            PromptSettings(domain=domain, layout="chain"), lambda p: len(layout.encode(p)), ROOM
        )
        empty = load_domain(domain).no_recent
        for at in range(max(covers, 1), len(films) - 1):
            now, later = (chain.judge(target(films, n, covers, said))[0] for n in (at, at + 1))
            text = chain.item_text(films[at], chain.settings.words)
            start = (*now.messages[:-1], Message("user", section(now, text, empty)))
            said_now = layout.text(now)
            before = said_now[: shared(said_now, layout.text(Prompt(start)))]
            alone = tuple(layout.tokenizer.encode(before, add_special_tokens=False))
            assert layout.encode(now)[: len(alone)] == alone
            assert layout.encode(later)[: len(alone)] == alone
            assert before.count("\n- ") == at - (covers if fold(said) else 0)

    check()


def test_a_fitted_prompt_leaves_out_the_same_old_items_for_several_targets() -> None:
    films = [film(number, story=10) for number in range(15)]
    room = words(writer(domain="films").judge(target(films, 6, 0))[0])  # six items fit
    tight = writer(room, domain="films")
    kept = [told(tight.judge(target(films, at, 0))[0]) for at in range(1, 14)]
    oldest = [int(lines[0].split()[1].rstrip(";")) for lines in kept]
    assert oldest == [0] * 6 + [4] * 4 + [8] * 3
    assert [len(lines) for lines in kept] == [1, 2, 3, 4, 5, 6, 3, 4, 5, 6, 3, 4, 5]
    assert tight.shortened == 7


def test_then_all_items_lose_words_then_the_summary_does() -> None:
    films = [film(number, story=12) for number in range(4)]
    summary = "The user likes " + " ".join(f"theme{n}" for n in range(30)) + "."
    asked = target(films, 3, 0)
    asked = Query("q", asked.history, asked.candidates, Summary("u", summary, 0))
    roomy = writer(domain="films").judge(asked)[0]
    least = words(writer(domain="films").judge(Query("q", history([]), (films[3],)))[0])
    seen = dict.fromkeys(
        writer(tokens, domain="films").judge(asked)[0].messages[-1].content
        for tokens in range(words(roomy), least, -1)
    )
    shared = [text[: text.index("Next film")] for text in seen]
    assert [text.count("long") for text in shared] == [36, 24, 12, 6, 3, 0, 0, 0, 0, 0]
    themes = [text.count("theme") for text in shared]
    assert themes == [30, 30, 30, 30, 30, 30, 29, 13, 5, 1]


def test_words_that_cannot_chain_are_refused(tmp_path: Path) -> None:
    from importlib import resources

    text = resources.files("trsr.prompts").joinpath("domains", "generic.toml").read_text("utf-8")
    for name, old, new in (
        ("order", "Preferences: $summary\nChosen last:\n$recent", "$recent\nLikes: $summary"),
        ("line", "last:\n$recent\nNext", "last: $recent. Next"),
    ):
        assert old in text
        (tmp_path / f"{name}.toml").write_text(text.replace(old, new))
        domain = str(tmp_path / f"{name}.toml")
        writer(domain=domain, layout="recent")
        with pytest.raises(ConfigError, match=r"prompts\.layout: chain needs .*\$recent on lines"):
            writer(domain=domain)


def test_settings_that_a_layout_does_not_read_change_no_digest() -> None:
    assert writer(layout="recent").digest == writer(layout="recent", overlap=2).digest
    assert writer(recent=1).digest == writer(recent=2).digest
    assert len({writer(layout="recent").digest, writer().digest, writer(overlap=1).digest}) == 3
