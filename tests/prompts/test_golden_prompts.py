"""Every word said to a model, as files to read: a change of a prompt shows in review."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from trsr.prompts import PromptSettings, PromptWriter, domains
from trsr.types import Interaction, Item, Prompt, Query, Summary, UserHistory

ITEMS = {
    "films": (
        Item("11", (("title", "The Apartment (1960)"), ("genres", "Comedy, Romance"))),
        Item("12", (("title", "Stalker (1979)"), ("genres", "Drama"), ("tagline", "The Zone"))),
        Item("13", (("title", "Solaris (1972)"), ("genres", "Drama, Science Fiction"))),
    ),
    "products": (
        Item("B1", (("title", "Steel rivets, 500 pieces"), ("brand", "Arrow"), ("price", "$9.99"))),
        Item("B2", (("title", "Rivet gun"), ("brand", "Arrow"), ("color", "black"))),
        Item("B3", (("title", "Safety glasses, clear"), ("brand", "3M"))),
    ),
    "news": (
        Item("N1", (("category", "sports"), ("title", "Rain cannot stop marathon winner"))),
        Item("N2", (("category", "sports"), ("title", "Cup final ends in a draw"))),
        Item("N3", (("category", "weather"), ("title", "First snow expected in the north"))),
    ),
    "generic": (
        Item("1", (("title", "Sourdough in two days"), ("topic", "baking"))),
        Item("2", (("title", "Rye bread with seeds"), ("topic", "baking"))),
        Item("3", (("title", "Pickled beets"), ("topic", "preserving"))),
    ),
}


def shown(prompt: Prompt) -> str:
    return "\n".join(f"<<{message.role}>>\n{message.content}" for message in prompt.messages)


def all_prompts(domain: str, style: str) -> str:
    settings = PromptSettings(domain=domain, style=style)
    writer = PromptWriter(settings, lambda prompt: 100, 1000, 100)
    first, second, candidate = ITEMS[domain]
    history = UserHistory("u", (Interaction(first, 1.0), Interaction(second, 2.0)))
    full = Query("q", history, (candidate,), Summary("u", "The user likes A.", 2))
    new = Query("q", UserHistory("u", ()), (candidate,))
    prompts = {
        "write": writer.write((first, second)),
        "revise": writer.revise("The user likes A.", (second,)),
        "merge": writer.merge(["The user likes A.", "The user likes B."]),
        "rank": writer.rank(full)[0],
        "rank, first visit": writer.rank(new)[0],
    }
    parts = [f"======== {name}\n{shown(prompt)}\n" for name, prompt in prompts.items()]
    return "\n".join([*parts, f"======== answers\n{writer.answers[0]} / {writer.answers[1]}\n"])


def ranking_prompts(domain: str) -> str:
    """Those of a run without summaries."""
    settings = PromptSettings(domain=domain)
    writer = PromptWriter(settings, lambda prompt: 100, 1000, 100, summarized=False)
    first, second, candidate = ITEMS[domain]
    history = UserHistory("u", (Interaction(first, 1.0), Interaction(second, 2.0)))
    queries = {
        "rank": Query("q", history, (candidate,)),
        "rank, first visit": Query("q", UserHistory("u", ()), (candidate,)),
    }
    parts = [
        f"======== {name}\n{shown(writer.rank(query)[0])}\n" for name, query in queries.items()
    ]
    return "\n".join(parts)


@pytest.mark.parametrize("domain", sorted(ITEMS))
def test_every_prompt_reads_as_its_golden_file(
    domain: str, golden: Callable[[str, str], None]
) -> None:
    texts = {"plain": ranking_prompts(domain)}
    texts |= {style: all_prompts(domain, style) for style in ("instruct", "worked", "profile")}
    every = [f"################ {style}\n{text}\n" for style, text in texts.items()]
    golden(f"{domain}.txt", "".join(every))


def test_every_domain_that_comes_with_trsr_has_golden_files() -> None:
    assert domains() == sorted(ITEMS)
