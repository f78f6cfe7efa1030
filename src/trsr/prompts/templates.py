"""A domain: the prompts for one kind of item, read from a TOML file.

The domains that come with trsr are in `trsr/prompts/domains`; a file of the user's own has the same
form. A prompt is a list of messages with placeholders (`$items`). They are filled in one pass, so a
placeholder inside an item's text stays text.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from string import Template
from typing import Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from trsr.errors import ConfigError
from trsr.registry import near
from trsr.settings import Settings, digest, toml_values
from trsr.storage import files
from trsr.types import Content, Message, Prompt, Role

Value = str | tuple[Content, ...]
"""What stands in the place of a placeholder."""

Kind = Literal["write", "revise", "merge", "rank", "rank_plain", "title"]

SLOTS: Mapping[Kind, frozenset[str]] = {
    "write": frozenset({"items"}),
    "revise": frozenset({"summary", "items"}),
    "merge": frozenset({"summaries"}),
    "rank": frozenset({"summary", "recent", "candidate"}),
    "rank_plain": frozenset({"recent", "candidate"}),
    "title": frozenset({"titles"}),
}
"""The placeholders of each kind of prompt: each stands exactly once, in the last user message."""

RANK_KINDS: tuple[Kind, ...] = ("rank", "rank_plain")

DESCRIBE = (
    "Describe what the image shows, in at most $words words: what kind of thing it is, its form, "
    "colors and material, and what is written on it. Answer with the description only."
)
"""The question about an image, where a domain has none of its own."""

FREE = {"words"}
"""Placeholders of the summary prompts that may stand anywhere, any number of times."""


class Turn(Settings):
    """One message of a prompt, with placeholders."""

    role: Role = Field(description="system, user or assistant")
    content: str = Field(min_length=1, description="the words; $$ is a dollar sign")

    @field_validator("content")
    @classmethod
    def _plain(cls, content: str) -> str:
        if not Template(content).is_valid():
            raise ValueError("a $ that starts no placeholder: write $$ for a dollar sign")
        return content.strip()

    @property
    def slots(self) -> list[str]:
        """The placeholders in their order, repeated ones repeated."""
        return _slots(self.content)


def _slots(text: str) -> list[str]:
    found = Template.pattern.finditer(text)
    return [name for m in found if (name := m["named"] or m["braced"])]


Turns = tuple[Turn, ...]


def _check(kind: Kind, turns: Turns) -> None:
    """Raises ValueError with every mistake in one prompt."""
    wrong = _wrong_slots(kind, turns)
    users = [index for index, turn in enumerate(turns) if turn.role == "user"]
    if not users or users[-1] < len(turns) - 2:
        wrong.append("the last message, or the one before a begun answer, must have role user")
    if any(turn.role == "system" for turn in turns[1:]):
        wrong.append("only the first message can have role system")
    if kind in RANK_KINDS and turns and turns[-1].role != "user":
        wrong.append(
            "the ranking prompt's last message must be the user's: the answer comes right after it"
        )
    if wrong:
        raise ValueError(f"{kind}: " + "; ".join(wrong))


def _wrong_slots(kind: Kind, turns: Turns) -> list[str]:
    needed = SLOTS[kind]
    allowed = needed if kind in RANK_KINDS else needed | FREE
    count = Counter(name for turn in turns for name in turn.slots)
    wrong = [
        f"there is no placeholder ${name}{near(name, sorted(allowed))}"
        for name in sorted(count.keys() - allowed)
    ]
    wrong += [
        f"${name} must stand exactly once, not {count[name]} times"
        for name in sorted(needed)
        if count[name] != 1
    ]
    if wrong:
        return wrong
    asked = [turn for turn in turns if turn.role == "user"][-1:]
    late = [name for turn in asked for name in turn.slots]
    if needed - set(late):
        return [f"{_dollars(needed)} must stand in the last user message"]
    if kind in RANK_KINDS and late[-1] != "candidate":
        shared = _dollars(needed - {"candidate"})
        return [f"$candidate must come after {shared}, which all candidates share"]
    return []


def _dollars(names: frozenset[str]) -> str:
    return " and ".join(f"${name}" for name in sorted(names, reverse=True))


class Style(Settings):
    """The summary prompts of one style."""

    write: Turns = Field(description="a block of items → a summary; $items, $words")
    revise: Turns = Field(description="a summary and new items → a summary; $summary, $items")
    merge: Turns = Field(description="summaries in time order → one; $summaries")
    sentences: int = Field(
        0, ge=0, description="keep so many sentences of what the model writes; 0: all"
    )

    @model_validator(mode="after")
    def _checked(self) -> Self:
        _check("write", self.write)
        _check("revise", self.revise)
        _check("merge", self.merge)
        return self


NEXT_TITLE = (
    Turn(
        role="system",
        content="These titles were chosen one after the other, the latest last. Write the title "
        "that is chosen next, and nothing else.",
    ),
    Turn(role="user", content="$titles"),
)


class Domain(Settings):
    """All prompts of one domain."""

    yes: str = Field(min_length=1, description="the answer if the user chooses the candidate")
    no: str = Field(min_length=1, description="the answer if not")
    no_summary: str = Field(min_length=1, description="stands where there is no summary")
    no_recent: str = Field(min_length=1, description="stands where no recent items are shown")
    first_visit: str = Field(
        min_length=1, description="stands there instead if the history is empty"
    )
    no_text: str = Field(min_length=1, description="stands for an item without any text")
    no_image: str = Field(
        "(no image)", min_length=1, description="stands in the place of a candidate's image"
    )
    describe: str = Field(
        DESCRIBE, description="asks what an item's image shows, which comes before it; $words"
    )
    rank: Turns = Field(description="the ranking prompt; $summary, $recent, $candidate")
    rank_plain: Turns = Field(
        (),
        description="the same for runs without summaries; $recent, $candidate; left out: "
        "rank, with no_summary",
    )
    title: Turns = Field(NEXT_TITLE, description="asks for the next item's title; $titles")
    instruct: Style | None = Field(None, description="summary prompts for large models")
    worked: Style | None = Field(None, description="summary prompts for small models")
    profile: Style | None = Field(None, description="the same, for summaries of a few named lists")

    @model_validator(mode="after")
    def _checked(self) -> Self:
        _check("rank", self.rank)
        if self.rank_plain:
            _check("rank_plain", self.rank_plain)
        if not Template(self.describe).is_valid() or {*_slots(self.describe)} > FREE:
            raise ValueError("describe: it may hold the placeholder $words alone; write $$ for $")
        _check("title", self.title)
        if self.yes.strip() == self.no.strip():
            raise ValueError("yes and no must be different answers")
        return self

    def digest(self, style: str) -> str:
        """A hash of every word about items' texts, without `profile` if unused."""
        apart = {"rank_plain", "no_image", "describe", "title"} | (
            {"profile"} if style != "profile" else set()
        )
        return digest(self.model_dump(mode="json", exclude=apart))


class PromptTemplate:
    """One prompt with placeholders; `fixed` ones, such as `words`, have the same value in all.

    Attributes:
        begun: The answer begun for the model, empty when there is none.
    """

    def __init__(self, turns: Turns, fixed: Mapping[str, str]) -> None:
        self._fixed = dict(fixed)
        self._turns = [(turn.role, Template(turn.content)) for turn in turns]
        self.begun = turns[-1].content if turns[-1].role == "assistant" else ""

    def fill(self, values: Mapping[str, Value]) -> Prompt:
        """The prompt with each value in its place, as it is."""
        all_values = self._fixed | dict(values)
        return Prompt(tuple(Message(role, _filled(text, all_values)) for role, text in self._turns))


def _filled(text: Template, values: Mapping[str, Value]) -> Iterator[Content]:
    """The parts of a message: the template's text, and each placeholder's value."""
    end = 0
    for found in Template.pattern.finditer(text.template):
        yield text.template[end : found.start()]
        name = found["named"] or found["braced"]
        value: Value = values[name] if name else "$"
        yield from (value,) if isinstance(value, str) else value
        end = found.end()
    yield text.template[end:]


_FOLDER = Path(__file__).parent / "domains"


def domains() -> list[str]:
    """The domains that come with trsr."""
    return [path.stem for path in files.listed(_FOLDER, "*.toml")]


def load_domain(name: str) -> Domain:
    """Reads a domain that comes with trsr, or a file of the user's own (a path to a `.toml`).

    Raises:
        ConfigError: If there is none, or with every mistake in its file, one a line.
    """
    if name.endswith(".toml"):
        try:
            return parse_domain(files.read_text(Path(name)), name)
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"the domain file {name} cannot be read: {error}") from error
    if name not in domains():
        raise ConfigError(
            f"there is no domain {name!r}{near(name, domains())} "
            "(a file of your own is named by its path, ending in .toml)"
        )
    return parse_domain(files.read_text(_FOLDER / f"{name}.toml"), f"{name}.toml")


def without_style(name: str, style: str) -> str:
    """What is wrong where summaries are written in a style that a domain lacks, and what to do."""
    domain = load_domain(name)
    others = [one for one in ("instruct", "worked", "profile") if getattr(domain, one)]
    choose = f"set prompts.style = {others[0]!r}, " if others else ""
    return (
        f"the domain {name} has no style {style!r}: {choose}add [[{style}.write]], "
        f"[[{style}.revise]] and [[{style}.merge]], or set summarize.strategy = 'none'"
    )


@functools.lru_cache(16)  # a run opens its domain a dozen times
def parse_domain(text: str, source: str) -> Domain:
    """Makes a domain of a file's text.

    Raises:
        ConfigError: Every mistake, one a line.
    """
    try:
        return Domain.model_validate(toml_values(text))
    except ValidationError as error:
        lines = [
            f"{'.'.join(str(part) for part in one['loc']) or 'file'}: "
            f"{one['msg'].removeprefix('Value error, ')}"
            for one in error.errors()
        ]
        raise ConfigError("\n  ".join([f"the domain file {source}:", *lines])) from error
    except ValueError as error:
        raise ConfigError(f"the domain file {source} is {error}") from error
