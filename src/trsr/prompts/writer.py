"""Writes every prompt: the domain's templates filled with items, fitted to the model's context."""

from __future__ import annotations

import functools
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from string import Template
from typing import NamedTuple

from trsr.errors import ConfigError, PromptError
from trsr.prompts.settings import PromptSettings
from trsr.prompts.templates import Kind, PromptTemplate, Style, Value, load_domain, without_style
from trsr.prompts.text import Keywords, Line, cut, finished, fold, item_line, length
from trsr.settings import digest
from trsr.storage.images import read_image
from trsr.types import Content, Image, Item, Message, Prompt, Query, Vectors

_CACHED_LINES = 1 << 14

_EDGE = 4
"""Tokens that a filled placeholder's two edges may add, by breaking tokens that spanned it."""


class Budget:
    """How many tokens a prompt may have, and whether it has more.

    We count tokens only where a bound does not decide. No tokenizer of today's language models
    (byte-level BPE, or SentencePiece with byte fallback) makes more tokens of a text than it has
    UTF-8 bytes. So the template's own tokens plus the bytes of its values bound the prompt.
    """

    def __init__(self, count: Callable[[Prompt], int], tokens: int) -> None:
        self.count = count
        self.tokens = tokens
        self._own: dict[int, tuple[PromptTemplate, int]] = {}

    def less(self, tokens: int) -> Budget:
        """The same budget beside something that takes some of it."""
        rest = Budget(self.count, self.tokens - tokens)
        rest._own = self._own
        return rest

    def bound(self, template: PromptTemplate, values: Mapping[str, Value]) -> int:
        """Never fewer than the tokens of `template.fill(values)`."""
        key = id(template)
        if key not in self._own:
            self._own[key] = (template, self.count(template.fill(dict.fromkeys(values, ""))))
        return self._own[key][1] + sum(map(_most_tokens, values.values()))

    def fits(self, template: PromptTemplate, values: Mapping[str, Value]) -> bool:
        """Whether the filled template has at most the budget's tokens."""
        return (
            self.bound(template, values) <= self.tokens
            or self.count(template.fill(values)) <= self.tokens
        )

    def longest(
        self,
        template: PromptTemplate,
        values: Mapping[str, Value],
        slot: str,
        texts: Sequence[Value],
    ) -> tuple[Value, bool]:
        """The text that makes the longest prompt in this slot, and whether all texts fit.

        One exact count is enough as long as the budget leaves room for one more text.
        """
        most = max(texts, key=_most_tokens)
        if self.bound(template, {**values, slot: most}) <= self.tokens:
            return most, True
        if self.count(template.fill({**values, slot: most})) + _most_tokens(most) <= self.tokens:
            return most, True
        counts = {text: self.count(template.fill({**values, slot: text})) for text in set(texts)}
        most = max(texts, key=counts.__getitem__)
        return most, counts[most] <= self.tokens


def first_fit(steps: int, fits: Callable[[int], bool]) -> int | None:
    """The first of `steps` ever shorter steps that fits, None where none does.

    A binary search; the returned step was itself tested, so it does fit.
    """
    found = bisect_left(range(steps), True, key=fits)
    return found if found < steps else None


class Truncation(NamedTuple):
    """How much of a ranking prompt's shared part stays: recent items, their words, summary words.

    `words` None: as the settings say.
    """

    recent: int
    words: int | None
    summary: int


def truncations(recent: Sequence[Line], summary: int) -> list[Truncation]:
    """Ever shorter truncations of recent items (oldest first) and a summary of so many words.

    Older items go first, then words of the latest one, then it, then words of the summary.
    """
    steps = [Truncation(count, None, summary) for count in range(len(recent), 0, -1)]
    if recent:
        steps += [Truncation(1, most, summary) for most in range(recent[-1].longest - 1, 0, -1)]
    return steps + [Truncation(0, None, words) for words in range(summary, -1, -1)]


def _most_tokens(value: Value) -> int:
    """Never fewer than the tokens that a value adds to a prompt."""
    parts = (value,) if isinstance(value, str) else value
    return sum(
        part.count if isinstance(part, Vectors) else len(str(part).encode()) + _EDGE
        for part in parts
    )


CHAT_VERSION = 1
"""Raised when the same words and settings come to give other prompts."""


@dataclass(slots=True)
class PromptCounts:
    """How many prompts were written; outlives the writer and its model.

    Attributes:
        written: All of them.
        shortened: Those that were cut to fit, beyond the settings' own word limits.
    """

    written: int = 0
    shortened: int = 0


class PromptWriter:
    """Writes prompts that fit a model's context.

    Args:
        settings: Domain, style, and how much of each item is shown.
        count_tokens: The tokens of a prompt as the model reads it.
        context_tokens: The most tokens of a prompt and its answer together.
        reserve_tokens: How many of them are reserved for the answer.
        catalog: All items, from which `keywords` are computed.
        summarized: Whether the run has summaries; where not, the domain's `rank_plain` is used.
        soft: The vectors that stand for a soft summary; 0: the model takes none, and soft summaries
            are left out of its prompts; None: summaries are texts.

    Attributes:
        settings: As given.
        answers: The two answers to the ranking prompt, yes first, as they are to be scored.
        digest: A hash of the words and of the settings that choose among them.
        counts: How many prompts were written, and cut to fit.

    Raises:
        ConfigError: If there is no such domain, or there is no room for any prompt; and when a
            summary prompt is written in a style that the domain lacks.
    """

    def __init__(
        self,
        settings: PromptSettings,
        count_tokens: Callable[[Prompt], int],
        context_tokens: int,
        reserve_tokens: int = 0,
        catalog: Iterable[Item] = (),
        *,
        summarized: bool = True,
        soft: int | None = None,
    ) -> None:
        if reserve_tokens >= context_tokens:
            raise ConfigError(
                f"a context of {context_tokens} tokens has no room for a prompt beside the "
                f"{reserve_tokens} kept for the answer: raise model.context_tokens, or lower "
                "summarize.sampling.max_tokens"
            )
        self._domain = load_domain(settings.domain)
        style: Style | None = getattr(self._domain, settings.style)
        plain = not summarized and bool(self._domain.rank_plain)
        self._rank = self._domain.rank_plain if plain else self._domain.rank
        chosen = settings.meaning({"domain"})
        self.settings = settings
        self.answers = (self._domain.yes, self._domain.no)
        words = {
            "domain": self._domain.digest(settings.style),
            "settings": chosen,
            "layout": CHAT_VERSION,
        }
        if plain:
            words["rank_plain"] = [turn.model_dump(mode="json") for turn in self._rank]
        if settings.candidate_image:
            words["no_image"] = self._domain.no_image
        if soft is not None:
            words["soft"] = soft
        self._soft = soft
        self.digest = digest(words)
        self.counts = PromptCounts()
        self._sentences = style.sentences if style else 0
        self._catalog = catalog
        # popular items come again and again
        self._line = functools.lru_cache(_CACHED_LINES)(_line_maker(settings, self._domain.no_text))
        self._templates = self._make_templates(style)
        self._of_images: dict[str, int] = {}
        self._budget = Budget(count_tokens, context_tokens - reserve_tokens)
        self._room = f"{context_tokens - reserve_tokens} ({context_tokens} less the answer's)"

    @property
    def written(self) -> int:
        """How many prompts were written."""
        return self.counts.written

    @property
    def shortened(self) -> int:
        """How many of them were cut to fit, beyond the settings' own word limits."""
        return self.counts.shortened

    def _make_templates(self, style: Style | None) -> dict[Kind, PromptTemplate]:
        """By kind; a run without summaries needs no style."""
        words = {"words": str(self.settings.summary_words)}
        found: dict[Kind, PromptTemplate] = {"rank": PromptTemplate(self._rank, {})}
        if style is None:
            return found
        return found | {
            "write": PromptTemplate(style.write, words),
            "revise": PromptTemplate(style.revise, words),
            "merge": PromptTemplate(style.merge, words),
        }

    def item_text(self, item: Item, words: int, *, numbers: bool = True) -> str:
        """An item as one line, `column: value; column: value`, without its id.

        `words` holds where the settings have no limit for a column.
        """
        return self._line(item, words, numbers).text()

    def lines(self, items: Sequence[Item]) -> list[str]:
        """The items as the ranking prompt shows them."""
        return [self.item_text(item, self.settings.words) for item in items]

    def keywords(self, items: Sequence[Item], most: int) -> str:
        """The words by which these items stand out of the catalog, the strongest first."""
        return ", ".join(self._keywords.of([self._values(item) for item in items], most))

    @functools.cached_property
    def _keywords(self) -> Keywords:
        return Keywords(self._values(item) for item in self._catalog)

    def _values(self, item: Item) -> str:
        """An item's values as in the summary prompts, without the columns' names."""
        return self._line(item, self.settings.summary_item_words).values

    def write(self, items: Sequence[Item]) -> Prompt:
        """Asks for the summary of one block of items, oldest first.

        Raises:
            PromptError: If it does not fit even with one word of each value.
        """
        block = self._block(items)
        fields = max(line.longest for line in block)

        def values(step: int) -> dict[str, Value]:
            return {"items": _listed(block, fields - step)}

        return self._fit("write", values, max(fields, 1), f"the summary of {len(items)} items")

    def revise(self, summary: str, items: Sequence[Item]) -> Prompt:
        """Asks for a summary brought up to date with a later block of items, oldest first.

        Raises:
            PromptError: If it does not fit even with one word of each value and of the summary.
        """
        block, summary = self._block(items), self._continued("revise", summary)
        fields, words = max(line.longest for line in block), length(summary)

        def values(step: int) -> dict[str, Value]:
            cut_fields = min(step, max(fields - 1, 0))  # the items first, the summary last
            kept = cut(summary, words - (step - cut_fields)) or self._domain.no_summary
            return {"summary": kept, "items": _listed(block, fields - cut_fields)}

        steps = max(fields, 1) + max(words - 1, 0)
        return self._fit("revise", values, steps, f"a summary revised by {len(items)} items")

    def merge(self, summaries: Sequence[str]) -> Prompt:
        """Asks for one summary of several, given in time order.

        Raises:
            PromptError: If it does not fit even with one word of each.
        """
        parts = [self._continued("merge", summary) for summary in summaries]
        words = max(length(part) for part in parts)

        def values(step: int) -> dict[str, Value]:
            kept = [cut(part, words - step) or self._domain.no_summary for part in parts]
            return {"summaries": "\n".join(f"- {part}" for part in kept)}

        return self._fit("merge", values, max(words, 1), f"a merge of {len(parts)} summaries")

    def _continued(self, kind: Kind, summary: str) -> str:
        """A summary as input of another prompt, without the words that the answer begins with.

        A small model that has "The user likes" to continue would copy what follows it there.
        """
        summary, begun = fold(summary), self._template(kind).begun
        return summary[len(begun) :].lstrip() if begun and summary.startswith(begun) else summary

    def _template(self, kind: Kind) -> PromptTemplate:
        if kind not in self._templates:
            raise ConfigError(without_style(self.settings.domain, self.settings.style))
        return self._templates[kind]

    def _block(self, items: Sequence[Item]) -> list[Line]:
        words, numbers = self.settings.summary_item_words, self.settings.summary_numbers
        return [self._line(item, words, numbers) for item in items]

    def _fit(
        self, kind: Kind, values: Callable[[int], Mapping[str, Value]], steps: int, what: str
    ) -> Prompt:
        """The first of `steps` ever shorter ways to fill a template that fits."""
        template = self._template(kind)
        step = first_fit(steps, lambda step: self._budget.fits(template, values(step)))
        if step is None:
            needed = self._budget.count(template.fill(values(steps - 1)))
            raise PromptError(
                f"the prompt for {what} needs {needed} tokens at its shortest, there is room for "
                f"{self._room}: raise model.context_tokens, or lower summarize.block_items or "
                "summarize.fan_in"
            )
        self._count(1, step > 0)
        return template.fill(values(step))

    def _count(self, prompts: int, cut_to_fit: bool) -> None:
        self.counts.written += prompts
        self.counts.shortened += prompts if cut_to_fit else 0

    def rank(self, query: Query) -> list[Prompt]:
        """Asks for each candidate, in the query's order, whether the user chooses it next.

        With `candidate_image` a prompt ends with the candidate's image: all that candidates share
        stands before it.

        The prompts are the same up to the candidate, which comes last; neither it nor its image is
        ever cut to fit. To fit the longest of them, older recent items are left out first, then
        words of the latest one's longest values, then that item, then words of the summary's end.

        Raises:
            PromptError: If the instruction and a candidate do not fit; names the query.
        """
        words = self.settings.words
        summary, size = self._summary(query)
        recent = [self._line(item, words) for item in query.history.recent(self.settings.recent)]
        texts = [self._line(item, words).text() for item in query.candidates]
        images: Sequence[Image | None] = [None] * len(texts)
        budget = self._budget
        if self.settings.candidate_image:
            images = [self._image(item) for item in query.candidates]
            for place, image in enumerate(images):
                texts[place] += "\n" if image else f" {self._domain.no_image}"
            budget = budget.less(max(self._image_tokens(item) for item in query.candidates))
        count = self.settings.item_vectors
        candidates = [(Vectors(text, count),) if count else text for text in texts]
        steps = truncations(recent, size)

        def values(step: int) -> dict[str, Value]:
            kept = steps[step]
            lines = recent[len(recent) - kept.recent :]
            none = self._domain.no_recent if len(query.history) else self._domain.first_visit
            return {
                "summary": summary(kept.summary) or self._domain.no_summary,
                "recent": _listed(lines, kept.words, count) or none,
            }

        step = self._fit_rank(values, len(steps), candidates, query, budget)
        self._count(len(candidates), step > 0)
        shared = values(step)
        template = self._templates["rank"]
        prompts = [template.fill({**shared, "candidate": text}) for text in candidates]
        return [
            _with_image(prompt, image) if image else prompt
            for prompt, image in zip(prompts, images, strict=True)
        ]

    def _summary(self, query: Query) -> tuple[Callable[[int], Value], int]:
        """The query's summary cut to so many words, and how many it has; vectors are one word."""
        text = query.summary.text if query.summary else ""
        if self._soft is None:
            folded = fold(text)
            return lambda words: cut(folded, words), length(folded)
        if not (text.strip() and self._soft):
            return lambda words: "", 0
        vectors = (Vectors(text, self._soft, "summary"),)
        return lambda words: vectors if words else "", 1

    def describe(self, image: Image, words: int) -> Prompt:
        """Asks what an image shows."""
        asked = Template(self._domain.describe).substitute(words=words)
        return Prompt((Message("user", (image, f"\n{asked}")),))

    @staticmethod
    def _image(item: Item) -> Image | None:
        return read_image(item.image) if item.image else None

    def _image_tokens(self, item: Item) -> int:
        """The tokens of an item's image, at least."""
        if not item.image:
            return 0
        if item.image not in self._of_images:
            alone = Prompt((Message("user", (read_image(item.image),)),))
            try:
                self._of_images[item.image] = self._budget.count(alone)
            except PromptError as error:
                raise PromptError(f"item {item.id}: {error}") from error
        return self._of_images[item.image]

    def _fit_rank(
        self,
        values: Callable[[int], dict[str, Value]],
        steps: int,
        candidates: Sequence[Value],
        query: Query,
        budget: Budget,
    ) -> int:
        """The first step with which every candidate fits, searched with the longest one."""
        template = self._templates["rank"]
        longest, fits = budget.longest(template, values(0), "candidate", candidates)
        if fits:
            return 0
        found = first_fit(
            steps, lambda step: budget.fits(template, {**values(step), "candidate": longest})
        )
        for step in range(steps if found is None else found, steps):
            longest, fits = budget.longest(template, values(step), "candidate", candidates)
            if fits:
                return step
        needed = budget.count(template.fill({**values(steps - 1), "candidate": longest}))
        shown = self._budget.tokens - budget.tokens
        image = f" and its image (which takes {shown})" if shown else ""
        raise PromptError(
            f"query {query.id}: the prompt needs {needed + shown} tokens for the instruction and a "
            f"candidate{image} alone, there is room for {self._room}: raise model.context_tokens, "
            f"or lower prompts.words{' or model.image_tokens' if shown else ''}"
        )

    def finish(self, prompt: Prompt, text: str) -> str:
        """Makes a summary of what a model wrote after a prompt; empty if it wrote nothing.

        See `trsr.prompts.text.finished`; the style says how many sentences stay.
        """
        return finished(prompt.begun, text, self._sentences)


def _listed(lines: Sequence[Line], most: int | None, vectors: int = 0) -> Value:
    if not vectors:
        return "\n".join(f"- {line.text(most)}" for line in lines)
    # an encoder reads whole texts: a cut one would be another item's vectors
    found: list[Content] = []
    for line in lines:
        found += ["\n- " if found else "- ", Vectors(line.text(), vectors)]
    return tuple(found)


def _with_image(prompt: Prompt, image: Image) -> Prompt:
    *before, asked = prompt.messages
    return replace(prompt, messages=(*before, Message(asked.role, (*asked.parts, image))))


def _line_maker(settings: PromptSettings, empty: str) -> Callable[[Item, int, bool], Line]:
    """Writes an item's line. It does not know the writer, which holds the model and its cache."""

    def line(item: Item, words: int, numbers: bool = True) -> Line:
        return item_line(item, settings.fields, words, empty, numbers=numbers)

    return line
