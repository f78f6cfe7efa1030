"""Titles of items, and the prompt that asks for the next one (LLMSeqPrompt, arXiv:2309.09261)."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from trsr.errors import DataError, PromptError
from trsr.prompts.settings import PromptSettings
from trsr.prompts.templates import PromptTemplate, load_domain
from trsr.prompts.text import fold, fold_cut
from trsr.prompts.writer import Budget, PromptCounts, first_fit
from trsr.settings import digest
from trsr.types import Item, Prompt

COLUMNS = ("title", "name")
"""The columns that may hold the title; the first that an item has does."""

MOST_UNTITLED = 0.05
MANY_SHARED = 0.05
"""Above this share of items without a title of their own, figures are of titles, not of items."""


def title_key(text: str) -> str:
    """What equal titles have in common: case, compatible characters and spaces are folded."""
    return fold(unicodedata.normalize("NFKC", text).casefold())


def title_of(item: Item, settings: PromptSettings) -> str:
    """An item's title on one line, within the settings' words; empty where it has none."""
    known = {column.casefold(): value for column, value in item.fields}
    for name in COLUMNS:
        if name in known:
            return fold_cut(known[name], settings.words)
    return ""


class Titles:
    """The titles of a catalog's items. Items whose titles have one key share one title.

    Attributes:
        texts: Each title once, in an order that does not depend on the items'.
        rows: Of each item its title's place in `texts`; −1 where it has none.
        counts: `items`, `without` a title, those that `share` theirs, and `cut` ones.

    Raises:
        DataError: If no item has a title, or more than a twentieth have none.
    """

    def __init__(self, items: Iterable[Item], settings: PromptSettings) -> None:
        own = list(items)
        shown = [title_of(item, settings) for item in own]
        keys = [title_key(text) for text in shown]
        written: dict[str, str] = {}
        for key, text in zip(keys, shown, strict=True):
            if key:
                written[key] = min(written.get(key, text), text)
        place = {key: number for number, key in enumerate(sorted(written))}
        self.texts = [written[key] for key in place]
        self.rows = [place.get(key, -1) for key in keys]
        self._place = place
        items_of = Counter(self.rows)
        self.counts = {
            "items": len(own),
            "without": items_of.pop(-1, 0),
            "share": sum(count for count in items_of.values() if count > 1),
            "cut": sum(_is_cut(item, text) for item, text in zip(own, shown, strict=True)),
        }
        self._refuse(own)

    def _refuse(self, items: Sequence[Item]) -> None:
        without, columns = self.counts["without"], sorted({c for i in items for c, _ in i.fields})
        if without <= MOST_UNTITLED * len(items):
            return
        first = next(item.id for item, row in zip(items, self.rows, strict=True) if row < 0)
        raise DataError(
            f"{without:,} of {len(items):,} items have no title, the first is {first}; titles are "
            f"read from the column {' or '.join(COLUMNS)}, and there are "
            f"{', '.join(columns) or 'none'}: name the column so in the items' file, or choose a "
            "method that needs no titles"
        )

    def place(self, text: str) -> int:
        """The place in `texts` of the title that a text is; −1 where it is none."""
        return self._place.get(title_key(text), -1)

    def notes(self) -> list[str]:
        """What a reader of figures must know of these titles."""
        count = self.counts
        found = []
        if count["without"]:
            found.append(f"{count['without']:,} of {count['items']:,} items have no title")
        if count["share"] > MANY_SHARED * count["items"]:
            found.append(
                f"{count['share']:,} of {count['items']:,} items share their title with others, "
                "and tie: these are figures of titles"
            )
        if count["cut"]:
            found.append(f"{count['cut']:,} titles are cut to prompts.words")
        return found


def _is_cut(item: Item, text: str) -> bool:
    known = {column.casefold(): value for column, value in item.fields}
    value = next((known[name] for name in COLUMNS if name in known), "")
    return len(text) < len(fold(value))


class TitleWriter:
    """Writes the prompt that asks for the next title.

    Attributes:
        settings: As given.
        digest: A hash of the words and of the settings that choose among them.
        counts: How many prompts were written, and cut to fit.
    """

    def __init__(
        self,
        settings: PromptSettings,
        count_tokens: Callable[[Prompt], int],
        context_tokens: int,
    ) -> None:
        domain = load_domain(settings.domain)
        self.settings = settings
        self.counts = PromptCounts()
        self.digest = digest(title_words(settings))
        self._none = domain.first_visit
        self._template = PromptTemplate(domain.title, {})
        # half the context is left for the title: what does not fit there is an error of its own
        self._budget = Budget(count_tokens, context_tokens // 2)

    def prompt(self, history: Sequence[Item]) -> Prompt:
        """Asks for the title after those of a history, oldest first; older ones go to fit.

        Raises:
            PromptError: If the instruction alone does not fit.
        """
        titles = [text for item in history if (text := title_of(item, self.settings))]
        titles = titles[max(0, len(titles) - self.settings.recent) :]

        def values(step: int) -> dict[str, str]:
            lines = [f"{n}. {text}" for n, text in enumerate(titles[step:], 1)]
            return {"titles": "\n".join(lines) or self._none}

        step = first_fit(
            len(titles) + 1, lambda step: self._budget.fits(self._template, values(step))
        )
        if step is None:
            raise PromptError(
                f"the prompt for a title needs more than half the model's context "
                f"({self._budget.tokens} tokens) without any title: raise model.context_tokens"
            )
        self.counts.written += 1
        self.counts.shortened += step > 0
        return self._template.fill(values(step))


def title_words(settings: PromptSettings) -> dict[str, object]:
    """All that decides the words of a title prompt, as plain values."""
    domain = load_domain(settings.domain)
    return {
        "title": [turn.model_dump(mode="json") for turn in domain.title],
        "first_visit": domain.first_visit,
        "words": settings.words,
        "recent": settings.recent,
    }
