"""How a user's list came about: blocks that were read, what was written of them, the scores."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jinja2
import polars as pl
from pydantic import SecretStr

from trsr.bars import visible, visible_name
from trsr.config import Config
from trsr.errors import StoreError
from trsr.prompts import PromptWriter
from trsr.prompts.text import fold
from trsr.rankers import QueryBatch, Ranker
from trsr.storage.shared_cache import open_cache
from trsr.summarize import STRATEGIES, Flow
from trsr.summarize.scheduler import cut_blocks
from trsr.types import Item, Prompt, Summary, UserHistory

GONE = "(not in the response cache any more)"
NOTHING = "(the model wrote nothing)"
_BLOCKS_FIRST = ("hierarchical", "recurrent")
"""The strategies that ask about each block once, before anything else and in order."""


WORDS = 5
"""Words of an explanation."""

Words = Sequence[tuple[str, float]]
"""Shared words and what each adds to a score, the heaviest first."""


def words_of(ranker: Ranker, batch: QueryBatch) -> Callable[[int], Words] | None:
    """Of one query the words that weighed most, by a candidate's column.

    None of a ranker that adds up no words, or where no candidate shares one.
    """
    parts = {} if ranker.members(ranker.config) else ranker.parts(batch)
    if not parts:
        return None

    def heaviest(column: int) -> Words:
        added = ((float(part.added[0, column]), word) for word, part in parts.items())
        best = sorted((one for one in added if one[0]), reverse=True)[:WORDS]
        return [(word, value) for value, word in best]

    return heaviest


@dataclass(frozen=True, slots=True)
class SummaryTrace:
    """How a summary came about.

    Attributes:
        blocks: What was read, oldest first, each with what was written of it; empty where nothing
            was.
        rest: The history's items since then.
        cut: Whether the blocks are those that were read; else where they ended is not known, and
            all stands in one.
        steps: What was written else, in order: of the hierarchical strategy the
            merges.
        missing: How many texts the response cache has not any more; `GONE` stands in their places.
    """

    blocks: Sequence[tuple[Sequence[Item], str]]
    rest: Sequence[Item]
    cut: bool = False
    steps: Sequence[str] = ()
    missing: int = 0


_PAGE = jinja2.Environment(autoescape=True, trim_blocks=True).from_string(
    """{% macro titles(items) %}{% for item in items %}
{{ title(item) }}{{ "; " if not loop.last }}{% endfor %}{% endmacro %}
<p><b>User {{ one.history.user }}</b>: {{ one.history | length }} interactions.</p>
{% for items, text in one.blocks %}
<p>Block {{ loop.index }}: {{ titles(items) }}{% if text %}<br><i>{{ text }}</i>{% endif %}</p>
{% endfor %}
{% if one.recent %}<p>Not summarized: {{ titles(one.recent) }}</p>{% endif %}
{% if one.summary %}
<p>Summary of {{ one.summary.covers }} interactions: <i>{{ one.summary.text }}</i></p>
{% endif %}
<table><thead><tr>{% for name in one.scores.columns %}<th>{{ name }}</th>{% endfor %}</tr></thead>
<tbody>{% for row in one.scores.rows() %}
<tr>{% for cell in row %}
<td>{{ "%+.4f" | format(cell) if cell is float else cell }}</td>{% endfor %}</tr>
{% for line in one.read(row[1]) %}
<tr><td></td><td colspan="{{ row | length - 1 }}">{{ line }}</td></tr>{% endfor %}
{% endfor %}</tbody></table>
{% if one.prompt %}<details><summary>Prompt of the first candidate</summary>
{% for message in one.prompt.messages %}<p>{{ message.role }}</p><pre>{{ message.shown }}</pre>
{% endfor %}</details>{% endif %}"""
)


@dataclass(frozen=True, slots=True)
class Explanation:
    """How a user's list came about; it shows itself in a notebook.

    Attributes:
        history: What the user did.
        trace: The blocks, and what was written of them.
        summary: What the rankers read of the user; None without one.
        prompt: What the language model was asked about the first candidate; None where none is.
        scores: Columns `rank`, `item`, `title`, and the scores of the ranker and of each that it
            asks, best first.
        words: For a ranker that adds up words, as bm25, by item the shared ones that weighed most.
        fields: The items' fields, the title first; empty: in their own order.
    """

    history: UserHistory
    trace: SummaryTrace
    summary: Summary | None
    prompt: Prompt | None
    scores: pl.DataFrame
    words: Mapping[str, Mapping[str, Words]] = field(default_factory=dict)
    fields: Sequence[str] = ()

    def title(self, item: Item) -> str:
        """An item's title for people."""
        return title(item, fields=self.fields)

    @property
    def blocks(self) -> Sequence[tuple[Sequence[Item], str]]:
        """The blocks that were read, oldest first, each with what was written of it."""
        return self.trace.blocks

    @property
    def recent(self) -> Sequence[Item]:
        """The items since the last block."""
        return self.trace.rest

    @property
    def summaries(self) -> list[str]:
        """All that was written of the user, in order; the last one is what the rankers read."""
        written = [*(text for _, text in self.blocks if text), *self.trace.steps]
        last = [self.summary.text] if self.summary and self.summary.text not in written[-1:] else []
        return [*written, *last]

    def __repr__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield f"user {self.history.user}, {len(self.history)} interactions"
        for number, (items, text) in enumerate(self.blocks, 1):
            yield f"block {number}: {'; '.join(map(self.title, items))}"
            yield from ([f"  {text}"] if text else [])
        if self.recent:
            yield f"not summarized: {'; '.join(map(self.title, self.recent))}"
        if self.summary:
            yield f"summary of {self.summary.covers} interactions: {self.summary.text}"
        for row in self.scores.iter_rows(named=True):
            scores = ", ".join(f"{name} {row[name]:+.4f}" for name in self.scores.columns[3:])
            yield f"{row['rank']:4d}. {row['title']} ({row['item']}): {scores}"
            yield from (f"      {line}" for line in self.read(row["item"]))

    def read(self, item: str) -> Iterator[str]:
        """Of each ranker that adds up words a line with those that weighed most for an item."""
        for name, by_item in self.words.items():
            said = ", ".join(f"{word} {value:+.2f}" for word, value in by_item[item])
            yield f"{name} reads: {said or 'no shared word'}"

    def _repr_html_(self) -> str:
        return _PAGE.render(one=self, title=self.title)


def title_text(item: Item, fields: Sequence[str] = ()) -> str:
    """The text that names an item: of `fields` the first that it has, else its first of all.

    `prompts.fields` begin with the title; the items' own columns may begin with a price. Empty of
    an item without text.
    """
    texts = dict(item.fields)
    return next((texts[name] for name in (*fields, *texts) if name in texts), "")


def title(item: Item, characters: int = 80, fields: Sequence[str] = ()) -> str:
    """An item's `title_text`, short enough for a line and harmless to a terminal."""
    text = " ".join(title_text(item, fields).split()) or "(no text)"
    return visible(text if len(text) <= characters else text[: characters - 1] + "…")


def named(item: Item, fields: Sequence[str] = ()) -> str:
    """An item's id and title; the title alone where the text is the id, as in a list of orders."""
    name = title(item, fields=fields)
    same = title_text(item, fields).split() == item.id.split()
    return name if same else f"{visible_name(item.id)}  {name}"


def page_writer(config: Config) -> PromptWriter:
    """The words of a run's prompts without the limit of a context, so that no model is opened."""
    return PromptWriter(
        config.prompts,
        lambda prompt: 0,
        1 << 60,
        summarized=config.summarized,
        soft=config.summarize.soft or None,
    )


def summary_text(config: Config, summary: Summary) -> str:
    """A summary for people; of a soft one the text is what it has read, and no summary."""
    soft = config.summarize.soft
    return f"{soft} vectors; `trsr show` reads them" if soft else summary.text


def summary_trace(
    config: Config, writer: PromptWriter, history: UserHistory, summary: Summary | None
) -> SummaryTrace:
    """How a history's own summary came about, as far as the response cache still tells it."""
    if summary is None:
        return SummaryTrace((), history.items)
    if config.summarize.soft:
        cut = cut_blocks(history, config.summarize)
        shown = [(one.items, "") for one in cut if one.end <= summary.covers]
        return SummaryTrace(shown, history.items[summary.covers :], True)
    if not summary.sources:  # of keywords, or made outside
        read = history.items[: summary.covers]
        return SummaryTrace(((read, ""),) if read else (), history.items[summary.covers :])
    settings = config.summarize
    blocks = cut_blocks(history, settings)
    known = _known(config.run.cache, summary.sources)
    flow = STRATEGIES.load(settings.strategy)(writer, settings).flow(blocks)
    texts = list(_texts(flow, writer, summary.sources, known))
    first = len(blocks) if settings.strategy in _BLOCKS_FIRST else 0
    block_texts = [*texts[:first], *[""] * (len(blocks) - first)]
    return SummaryTrace(
        [(block.items, text) for block, text in zip(blocks, block_texts, strict=False)],
        history.items[blocks[-1].end :] if blocks else history.items,
        True,
        texts[first:],
        sum(key not in known for key in summary.sources),
    )


def _known(place: Path | SecretStr, keys: Sequence[str]) -> Mapping[str, object]:
    try:
        with open_cache(place, write=False) as store:
            return store.get(keys)
    except StoreError:
        return {}


def _texts(
    flow: Flow, writer: PromptWriter, sources: Sequence[str], known: Mapping[str, object]
) -> Iterator[str]:
    """What was written at each step, complete: the flow runs again on the cached answers.

    It knows the words that each answer begins with.
    """
    left = list(sources)
    try:
        prompts = next(flow)
        while left:
            texts = [
                writer.finish(prompt, str(known[key])) if key in known else GONE
                for prompt, key in zip(prompts, left, strict=False)
            ]
            yield from (text or NOTHING for text in texts)
            left = left[len(texts) :]
            if left:
                prompts = flow.send(texts)
    except StopIteration:
        pass
    for key in left:  # a strategy that asks otherwise than it did
        yield fold(str(known[key])) if key in known else GONE
