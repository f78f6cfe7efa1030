"""The nouns of trsr: small, frozen, without I/O.

An `Item` is an id and its text fields. A `UserHistory` is what one user did, oldest first. A
`Query` is all that is known when a ranking is asked for; only a `Case` also holds the answer, and
no ranker is ever given a `Case`.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import operator
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from trsr.errors import DataError, PromptError

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Item:
    """One item of the catalog.

    Attributes:
        id: The item's id as text.
        fields: (column, value) pairs in catalog order, missing and empty values left out. A mapping
            or a list becomes such pairs.
        image: The path of its picture in the run; empty where it has none.

    Raises:
        DataError: If the id or a value is no text.
    """

    id: str
    fields: tuple[tuple[str, str], ...] = ()
    image: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.id, str):
            raise DataError(f"an item's id is {self.id!r}, which is no text")
        if not isinstance(self.fields, tuple) or not all(map(_is_pair, self.fields)):
            given = self.fields
            pairs = given.items() if isinstance(given, Mapping) else given
            object.__setattr__(self, "fields", _pairs(self.id, pairs))
        for name, text in self.fields:
            if not isinstance(text, str):
                raise DataError(
                    f"item {self.id!r}: the value of {name!r} is {text!r}, which is no text; "
                    "give text, or leave the field out"
                )


def _is_pair(given: object) -> bool:
    return isinstance(given, tuple) and len(given) == 2


def _pairs(name: str, given: object) -> tuple[tuple[str, str], ...]:
    try:
        return tuple((column, value) for column, value in given)  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        raise DataError(
            f"item {name!r}: its texts are {given!r}; give a mapping of columns to texts"
        ) from None


@dataclass(frozen=True, slots=True)
class Interaction:
    """A user took an item at a time (seconds, or any other clock that only grows)."""

    item: Item
    time: float


@dataclass(frozen=True, slots=True)
class Block:
    """A run of neighbouring interactions of one user, oldest first.

    Attributes:
        interactions: The interactions, at least one.
        start: Position of the first one in the user's history, from 0.
    """

    interactions: tuple[Interaction, ...]
    start: int

    @property
    def items(self) -> tuple[Item, ...]:
        """The block's items, oldest first."""
        return tuple(interaction.item for interaction in self.interactions)

    @property
    def end(self) -> int:
        """How many interactions of the history end with this block."""
        return self.start + len(self.interactions)


@dataclass(frozen=True, slots=True)
class UserHistory:
    """What one user did, oldest first.

    Raises:
        ValueError: If times decrease.
    """

    user: str
    interactions: tuple[Interaction, ...]

    def __post_init__(self) -> None:
        for earlier, later in itertools.pairwise(self.interactions):
            if later.time < earlier.time:
                raise ValueError(
                    f"user {self.user}: the history is not oldest first "
                    f"({later.item.id} at {later.time} follows {earlier.item.id} at {earlier.time})"
                )

    def __len__(self) -> int:
        return len(self.interactions)

    @property
    def items(self) -> tuple[Item, ...]:
        """The items, oldest first."""
        return tuple(interaction.item for interaction in self.interactions)

    def recent(self, n: int) -> tuple[Item, ...]:
        """The latest `n` items, oldest first; fewer where the history is shorter."""
        return self.items[-n:] if n > 0 else ()

    def blocks(self, size: int) -> tuple[Block, ...]:
        """Consecutive blocks of `size` interactions; the last one may be shorter.

        Raises:
            ValueError: If `size` is below 1.
        """
        if size < 1:
            raise ValueError(f"a block holds at least one interaction, not {size}")
        return tuple(
            Block(self.interactions[start : start + size], start)
            for start in range(0, len(self.interactions), size)
        )

    def before(self, time: float) -> UserHistory:
        """The part of the history strictly before `time`."""
        return UserHistory(self.user, tuple(i for i in self.interactions if i.time < time))


@dataclass(frozen=True, slots=True)
class Summary:
    """What a language model wrote about a user.

    Attributes:
        user: The user's id.
        text: The summary; empty when the strategy writes none.
        covers: How many interactions, from the oldest, it has read.
        sources: Keys of the output-store entries that made it, in the order they were asked.
    """

    user: str
    text: str
    covers: int
    sources: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Image:
    """A picture, for models that see.

    Attributes:
        data: The file's bytes.
        media_type: Their format, such as `image/png`.
    """

    data: bytes
    media_type: str

    def __str__(self) -> str:
        return f"an image ({self.media_type}, {len(self.data):,} bytes)"

    @property
    def key(self) -> str:
        """What stands for it in a key: its format and a SHA-256."""
        return f"image {self.media_type} {hashlib.sha256(self.data).hexdigest()}"


@dataclass(frozen=True, slots=True)
class Vectors:
    """Vectors in the place of a text's tokens, for a model with an encoder that makes them.

    Which vectors they are is the model's: its identity says what its encoder is.

    Attributes:
        text: What the encoder reads: an item's line; for a summary the lines of all items that it
            has read, block by block (see `trsr.summarize.strategies.SoftSummary`).
        count: How many vectors it makes of it.
        of: What the text is.
    """

    text: str
    count: int
    of: Literal["item", "summary"] = "item"

    def __str__(self) -> str:
        if self.of == "summary":
            items = sum(map(bool, self.text.splitlines()))
            return f"{self.count} vectors, a summary of {items} items"
        return f"{self.count} vectors of {self.text!r}"

    @property
    def key(self) -> str:
        """What stands for them in a key: their count and a SHA-256 of the text."""
        of = "" if self.of == "item" else f"{self.of} "
        return f"{of}vectors {self.count} {hashlib.sha256(self.text.encode()).hexdigest()}"


Content = str | Image | Vectors
"""One part of a message."""


@dataclass(frozen=True, slots=True, init=False)
class Message:
    """One turn of a conversation with a language model.

    Attributes:
        role: Who speaks.
        parts: What is said, in order; neighbouring texts are one, so that a text is one part
            however it was put together. A message may say nothing.
    """

    role: Role
    parts: tuple[Content, ...]

    def __init__(self, role: Role, parts: Content | Iterable[Content]) -> None:
        """Takes one part, most often a plain string, or several."""
        given = (parts,) if isinstance(parts, str | Image | Vectors) else parts
        joined: list[Content] = []
        for part in given:
            if isinstance(part, str) and joined and isinstance(joined[-1], str):
                joined[-1] += part
            elif part != "":
                joined.append(part)
        object.__setattr__(self, "role", role)
        object.__setattr__(self, "parts", tuple(joined))

    @property
    def content(self) -> str:
        """The message's text, empty where it says nothing.

        Raises:
            PromptError: If a part is no text. Backends ask `text_only` first, which names them.
        """
        if other := self.other:
            raise PromptError(f"a message of role {self.role} holds {other}, where text is wanted")
        return "".join(map(str, self.parts))

    @property
    def shown(self) -> str:
        """What is said, for people: an image or vectors are named in brackets."""
        return "".join(part if isinstance(part, str) else f"[{part}]" for part in self.parts)

    @property
    def other(self) -> Content | None:
        """The first part that is no text, where there is one."""
        return next((part for part in self.parts if not isinstance(part, str)), None)

    @property
    def key(self) -> str | list[str]:
        """What stands for the message in keys and seeds: of a text the text itself."""
        if self.other is None:
            return self.content
        return [f"text {part}" if isinstance(part, str) else part.key for part in self.parts]


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is said to a language model.

    A last message with the role `assistant` is an answer begun for the model, which it continues.

    Attributes:
        messages: In order.
        draw: Which of several texts drawn after the same words is meant: each draw has its own
            random numbers and its own place in the output store.
    """

    messages: tuple[Message, ...]
    draw: int = 0

    @property
    def begun(self) -> str:
        """The answer begun for the model, empty when there is none."""
        last = self.messages[-1]
        return last.content if last.role == "assistant" else ""

    @property
    def seed_parts(self) -> tuple[str, ...]:
        """What the random numbers of a drawn text follow from, beside the settings' seed."""
        said: list[str] = []
        for message in self.messages:
            key = message.key
            said += [message.role, *([key] if isinstance(key, str) else key)]
        return (*said, f"draw {self.draw}") if self.draw else tuple(said)


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt and the answer that training teaches."""

    prompt: Prompt
    answer: str


@dataclass(frozen=True, slots=True)
class Query:
    """All that is known when a ranking is asked for: never the answer.

    Raises:
        ValueError: If the summary is of another user or has read past the history, if there are
            no candidates, or if a candidate stands twice.
    """

    id: str
    history: UserHistory
    candidates: tuple[Item, ...]
    summary: Summary | None = None

    def __post_init__(self) -> None:
        ids = {item.id for item in self.candidates}
        if not ids:
            raise ValueError(f"query {self.id}: there are no candidates")
        if len(ids) < len(self.candidates):
            raise ValueError(f"query {self.id}: a candidate stands twice")
        if self.summary is None:
            return
        if self.summary.user != self.history.user:
            raise ValueError(f"query {self.id}: the summary is of user {self.summary.user}")
        if self.summary.covers > len(self.history):
            raise ValueError(
                f"query {self.id}: the summary has read {self.summary.covers} interactions, "
                f"the history holds {len(self.history)}"
            )


@dataclass(frozen=True, slots=True)
class Case:
    """A query and its answer: the only type that holds the answer.

    Raises:
        ValueError: If no candidate is relevant, or a relevant item is not a candidate.
    """

    query: Query
    relevant: frozenset[str]

    def __post_init__(self) -> None:
        missing = self.relevant - {item.id for item in self.query.candidates}
        if not self.relevant or missing:
            what = (
                f"relevant items {sorted(missing)} are not candidates" if missing else "no answer"
            )
            raise ValueError(f"case {self.query.id}: {what}")


class RankedListError(ValueError):
    """What is given for a ranked list is none; the message names the query."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One place in a ranked list."""

    item: str
    score: float


@dataclass(frozen=True, slots=True)
class RankedList:
    """A query's candidates with their scores, best first; ties keep the candidates' order.

    Raises:
        RankedListError: If the entries are not sorted by falling score, a score is not a number, or
            an item stands twice.
    """

    query: str
    entries: tuple[Entry, ...]

    def __post_init__(self) -> None:
        scores = [entry.score for entry in self.entries]
        if not all(map(operator.ge, scores, scores[1:])):
            unknown = any(map(math.isnan, scores))
            what = "a score is not a number" if unknown else "the entries are not sorted by score"
            raise RankedListError(f"query {self.query}: {what}")
        if len({entry.item for entry in self.entries}) < len(self.entries):
            raise RankedListError(f"query {self.query}: an item is ranked twice")

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    @classmethod
    def of(cls, query: Query, scores: list[float]) -> RankedList:
        """Sorts a query's candidates by falling score, one score a candidate in their order.

        Raises:
            RankedListError: If there is not one score a candidate, or one is not a number.
        """
        if len(scores) != len(query.candidates):
            raise RankedListError(
                f"query {query.id}: {len(scores)} scores for {len(query.candidates)} candidates"
            )
        pairs = zip(query.candidates, scores, strict=True)
        ranked = sorted(pairs, key=lambda pair: -pair[1])
        return cls(query.id, tuple(Entry(item.id, float(score)) for item, score in ranked))
