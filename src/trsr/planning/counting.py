"""What a run asks its models: the stages' own prompts of real data, answered by a stand-in."""

from __future__ import annotations

import functools
import math
import re
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from trsr.data import Cases, Catalog
from trsr.data.cases import SEEN
from trsr.models import ModelSettings, Sampling
from trsr.models.base import Feed, FeedReader
from trsr.models.chat_format import ChatFormat, Question
from trsr.models.token_tree.tokens import Tokens, added
from trsr.models.vector_format import SUMMARIES, VectorFormat, VectorNumbers
from trsr.models.weights import GGUF, local_weights
from trsr.planning.machines import Shape, bytes_each
from trsr.settings import derive_seed
from trsr.storage import files
from trsr.storage.response_cache import ResponseCache, response_key
from trsr.types import Message, Prompt, Vectors

if TYPE_CHECKING:
    from trsr.models.hf.soft_summary import Step
    from trsr.training.encode import EncodedCase

USERS = 512
"""Users of each split that are looked at, at most."""
BYTES_A_TOKEN = 4
"""Where the model's own tokenizer is not here: about what English text has."""
SURE = 1.96
"""Standard errors within which 95 % of estimates lie."""
_NUMBERS = 2**24
"""The first number of a vector: no token's."""


class Reader:
    """How a model reads prompts, without the model: its tokenizer, and its sizes.

    Where they are not on this machine, a token is taken as four bytes, and the sizes are guessed
    from the name. Nothing is downloaded, but a model that comes with trsr. Vectors stand in the
    place of `items` and of a soft `summary`, so many each; 0: none do.

    Attributes:
        settings: The model's.
        items: The numbers of items' vectors.
        summaries: Those of summaries' vectors.
        shape: Its sizes; None where they are not known, or are an endpoint's.
        exact: Whether tokens are counted by its own tokenizer.
        context_tokens: As a model's.
    """

    takes_images = True

    def __init__(self, settings: ModelSettings, items: int = 0, summary: int = 0) -> None:
        self.settings = settings
        self.item_vectors, self.summary_vectors = items, summary
        self.items = VectorNumbers(_NUMBERS, items)
        self.summaries = VectorNumbers(SUMMARIES, summary, "summarize.vectors")
        local = settings.backend in ("transformers", "openvino")
        self.folder = _here(settings) if local else None
        self._chat_format: Any = None
        self.shape: Shape | None = None
        if self.folder is not None:
            special, tokenizer = settings.special_tokens, _tokenizer(self.folder)
            if items:
                self._chat_format = VectorFormat(tokenizer, settings.name, self.items, special)
                self._chat_format.summaries = self.summaries
            else:
                self._chat_format = ChatFormat(tokenizer, settings.name, settings.backend, special)
            self.shape = Shape.read(self.folder, bytes_each(settings))
        if local and self.shape is None:
            self.shape = Shape.guess(settings.name, bytes_each(settings))
        self.exact = self._chat_format is not None
        own = self.shape.context if self.shape else 0
        self.context_tokens = min(settings.context_tokens, own or settings.context_tokens)

    def encode(self, prompt: Prompt) -> Tokens:
        """The prompt's tokens; an image is `model.image_tokens` equal ones."""
        own, images = plain(prompt, vectors=self.item_vectors > 0)
        if self._chat_format is not None:
            found = self._chat_format.encode(own)
        else:
            parts = (
                part
                for one in own.messages
                for part in Message(one.role, (f"{one.role}\n", *one.parts, "\n")).parts
            )
            found = tuple(token for part in parts for token in self._inexact(part))
        return (*found, *(-1 for _ in range(images * self.settings.image_tokens)))

    def _inexact(self, part: Any) -> Tokens:
        if isinstance(part, Vectors):
            return (self.summaries if part.of == "summary" else self.items).of(part)
        return _pieces(part)

    def count_tokens(self, prompt: Prompt) -> int:
        """How many tokens a prompt has."""
        return len(self.encode(prompt))

    def count_text(self, text: str) -> int:
        """How many tokens a written text has, its end among them."""
        text = _MARKS.sub("", text)
        if self._chat_format is None:
            return len(_pieces(text)) + 1
        return len(self._chat_format.tokenizer.encode(text, add_special_tokens=False)) + 1

    def encode_answers(self, prompt: Prompt, answers: Sequence[str]) -> Question:
        """The prompt's tokens and each answer's own, as a model's `encode_answers` gives them."""
        own, images = plain(prompt, vectors=self.item_vectors > 0)
        if self._chat_format is None or images:
            return Question(self.encode(prompt), tuple((place,) for place, _ in enumerate(answers)))
        (question,) = self._chat_format.questions([own], answers)
        found: Question = question
        return found


@functools.lru_cache(2)
def _tokenizer(folder: Path) -> Any:
    from trsr.models.hf.load import load_tokenizer

    return load_tokenizer(folder)


def _here(settings: ModelSettings) -> Path | None:
    """The model's folder where it is on this machine; of a hub's cached snapshot too."""
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError

    name = settings.name
    if name in GGUF or files.exists(Path(name).expanduser()) or name.startswith((".", "~", "/")):
        return local_weights(name, revision=settings.revision)
    try:
        kept = huggingface_hub.snapshot_download(
            name, revision=settings.revision, local_files_only=True
        )
    except (OSError, HFValidationError):
        return None
    needed = ("config.json", "tokenizer_config.json")
    return Path(kept) if all(files.exists(Path(kept) / one) for one in needed) else None


_MARKS = re.compile("[\ue000-\uefff]")


def plain(prompt: Prompt, *, vectors: bool = False) -> tuple[Prompt, int]:
    """A prompt's text alone, without marks, and how many of its parts are no text."""
    kept = (str, Vectors) if vectors else str
    own = [
        Message(
            one.role,
            [
                _MARKS.sub("", p) if isinstance(p, str) else p
                for p in one.parts
                if isinstance(p, kept)
            ],
        )
        for one in prompt.messages
    ]
    others = [part for one in prompt.messages for part in one.parts if not isinstance(part, kept)]
    return replace(prompt, messages=tuple(own)), len(others)


def _pieces(text: str) -> Tokens:
    raw = text.encode("utf-8", "replace")
    starts = range(0, len(raw), BYTES_A_TOKEN)
    return tuple(int.from_bytes(raw[at : at + BYTES_A_TOKEN]) % _NUMBERS for at in starts)


@dataclass
class Counts:
    """What a model is asked, of one user or of all.

    Attributes:
        prompts: All that are put.
        hits: Those of them that the response cache answers.
        tokens: Of the others, shared beginnings counted each time.
        distinct: Of the others, what prompts begin alike counted once, by the token tree.
        generated: Tokens that are written.
        cases: Histories or queries that this is of.
        encoded: Tokens that the summary encoder reads, beside all these.
    """

    prompts: float = 0
    hits: float = 0
    tokens: float = 0
    distinct: float = 0
    generated: float = 0
    cases: float = 0
    encoded: float = 0

    def __add__(self, other: Counts) -> Counts:
        pairs = zip(astuple(self), astuple(other), strict=True)
        return Counts(*(own + one for own, one in pairs))

    def times(self, factor: float) -> Counts:
        """So many times as much."""
        return Counts(*(own * factor for own in astuple(self)))


class Encoders:
    """What the encoders of items and of soft summaries read, in tokens, slots among them."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._items: dict[str, int] = {}
        self._known: set[str] = set()  # states of summaries

    def item(self, text: str) -> int:
        """Tokens of the pass over one item."""
        from trsr.models.hf.item_vectors import MAX_TOKENS

        if text not in self._items:
            own = min(self._reader.count_text(text) - 1, MAX_TOKENS)
            self._items[text] = own + self._reader.item_vectors
        return self._items[text]

    def fresh(self, text: str) -> int:
        """Tokens of the steps to a summary, from the latest state that an earlier one has left."""
        from trsr.models.hf.soft_summary import lasting, steps

        path = steps(text)
        known = max((step.number for step in path if step.key in self._known), default=0)
        self._known |= {*lasting(path)}
        return sum(map(self._step, path[known:]))

    def _step(self, step: Step) -> int:
        slots = self._reader.summary_vectors * (2 if step.before else 1)
        return slots + len(step.items) * self._reader.item_vectors

    def trained(self, cases: Sequence[EncodedCase], reach: int) -> tuple[int, int, int]:
        """Tokens that one pass of training reads for some cases, while both encoders learn.

        Gradients go through the latest `reach` blocks of a summary.

        Returns:
            Those of items; of a summary's latest blocks, with gradients; and of earlier ones.
        """
        from trsr.models.hf.soft_summary import steps

        items, summaries = self._reader.items, self._reader.summaries
        sequences = [one for case in cases for one in (case.prefix, *case.rests)]
        shown = summaries.blocks(sequences) if summaries.count else []
        paths = [steps(summaries.text(block)) for block in shown]
        early = {step.key: step for own in paths for step in own[:-reach]}
        late = {(own[-reach:][0].before, step.key): step for own in paths for step in own[-reach:]}
        texts = {items.text(block) for block in items.blocks(sequences)}
        texts |= {item for step in late.values() for item in step.items}
        read = (
            map(self.item, texts),
            map(self._step, late.values()),
            map(self._step, early.values()),
        )
        return sum(read[0]), sum(read[1]), sum(read[2])


class StandIn:
    """Answers like a model behind the response cache, at once, and counts what it was asked.

    A stored answer is given as it is. Any other is one of the given texts, chosen by the prompt.

    Attributes:
        counts: What it was asked since `take` was last called.
        asked: The prompts that a model would be given, in order.
    """

    def __init__(
        self,
        reader: Reader,
        texts: Sequence[str] = (),
        store: ResponseCache | None = None,
        identity: str = "",
    ) -> None:
        self.reader = reader
        self.identity = identity
        self.takes_images = True
        self.item_vectors = reader.item_vectors
        self.context_tokens = reader.context_tokens
        self.count_tokens = reader.count_tokens
        self._texts = texts
        self._store = store if identity else None
        self._encoders = Encoders(reader)
        self._known: set[str] = set()
        self._ordered: list[Tokens] = []
        self.counts = Counts()
        self.asked: list[Prompt] = []

    def ask(self, prompt: Prompt, kind: Mapping[str, object], identity: str = "") -> Any:
        """The stored answer, None where there is none; counts the prompt."""
        key = response_key(identity or self.identity, prompt, kind)
        stored = self._store.get([key]).get(key) if self._store else None
        self.counts.prompts += 1
        if key in self._known or stored is not None:
            self.counts.hits += 1
            return stored
        self._known.add(key)
        tokens = self.reader.encode(prompt)
        self.counts.tokens += len(tokens)
        self.counts.distinct += added(self._ordered, tokens)
        parts = (part for message in prompt.messages for part in message.parts)
        soft = (one.text for one in parts if isinstance(one, Vectors) and one.of == "summary")
        self.counts.encoded += sum(map(self._encoders.fresh, soft))
        self.asked.append(prompt)
        return None

    def generate(self, prompts: Feed, sampling: Sampling) -> Iterator[tuple[int, str]]:
        """Yields (position, text), each as soon as it is asked for."""
        feed, kind = FeedReader(prompts), {"generate": sampling.model_dump()}
        while (entry := feed.take()) is not None:
            position, prompt = entry
            before = self.counts.hits
            text = self.ask(prompt, kind)
            if text is None:
                draw = derive_seed(0, "plan", *prompt.seed_parts)
                text = _marked(self._texts[draw % len(self._texts)], draw)
            if self.counts.hits == before:
                written = self.reader.count_text(text)
                self.counts.generated += min(written, sampling.max_tokens)
            yield position, str(text)

    def take(self) -> Counts:
        """What was asked since the last time."""
        counts, self.counts = self.counts, Counts()
        return counts


def _marked(text: str, draw: int) -> str:
    """The text with a mark of its prompt, which counts no token.

    A model seldom writes one text twice, so later prompts with texts of two prompts differ.
    """
    mark = "".join(chr(0xE000 + (draw >> shift) % 4096) for shift in (0, 12, 24))
    return text[:1] + mark + text[1:] if text[:1].strip() else text[:2] + mark + text[2:]


@dataclass
class Sampled:
    """Counts of a sample of users, and what they say of all.

    Attributes:
        users: How many there are in all.
        cases: Likewise.
        found: Of each user of the sample.
    """

    users: int
    cases: int
    found: list[Counts] = field(default_factory=list)

    def total(self) -> tuple[Counts, float]:
        """Estimated counts of all, and by how many tokens they may be wrong (95 %).

        A ratio estimate by cases with users as clusters (Cochran, Sampling Techniques, 6.3).
        """
        some = sum(self.found, Counts())
        if not some.cases:
            return Counts(), 0.0
        total = some.times(self.cases / some.cases)
        seen, ratio = len(self.found), some.tokens / some.cases
        if seen >= self.users or seen < 2:
            return total, 0.0
        spread = statistics.stdev(one.tokens - ratio * one.cases for one in self.found)
        left = 1 - seen / self.users
        return total, SURE * self.users * spread * math.sqrt(left / seen)


def sample(cases: Cases, seed: int, most: int = USERS) -> tuple[list[Cases], Sampled]:
    """Some users' cases, a user each; drawn by user, so that splits with the same users agree."""
    users = cases.frame["user"].unique().to_list()
    drawn = sorted(users, key=lambda user: derive_seed(seed, "plan", user))[:most]
    frame = cases.frame.filter(pl.col("user").is_in(drawn))
    parts = frame.partition_by("user", maintain_order=True)
    return [cases.with_frame(part) for part in parts], Sampled(len(users), len(cases))


def proposed(cases: Cases, catalog: Catalog, most: int, seed: int) -> Cases:
    """Cases of a whole catalog with as many candidates as the retriever proposes, drawn."""
    if not cases.full:
        return cases
    size = min(most, len(catalog))
    ids = pl.Series(list(catalog.ids), dtype=pl.String)
    drawn = [
        ids.sample(size, seed=derive_seed(seed, "plan", query) % 2**32).to_list()
        for query in cases.frame["query"]
    ]
    column = pl.Series("candidates", drawn, dtype=pl.List(pl.String))
    return cases.with_frame(cases.frame.with_columns(column).drop(SEEN))


def totals(parts: Iterable[Sampled]) -> tuple[Counts, float]:
    """Estimated counts of several samples together, whose errors may all point one way."""
    found = [part.total() for part in parts]
    counts, error = Counts(), 0.0
    for one, wrong in found:
        counts, error = counts + one, error + wrong
    return counts, error
