"""Vectors in prompts as numbers beyond the vocabulary, which an embedding layer looks up."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from trsr.errors import PromptError
from trsr.models.chat_format import ChatFormat
from trsr.models.token_tree.tokens import Tokens
from trsr.types import Message, Prompt, Vectors

_MARK = "\ue000"
"""Stands around a number in a text; Unicode gives it no meaning."""
_MARKED = re.compile(f"{_MARK}(\\d+){_MARK}")
SUMMARIES = 2**30
"""The first number of a soft summary; items' numbers lie below."""


class VectorNumbers:
    """Numbers for texts: each has as many as an encoder makes vectors of it.

    They follow from the text, so that a training that goes on has the same ones. None of them, from
    `base` on, is a token's.
    """

    def __init__(self, base: int, count: int, setting: str = "prompts.item_vectors") -> None:
        self.base, self.count = base, count
        self._setting = setting
        self._end = SUMMARIES if base < SUMMARIES else 2 * SUMMARIES
        self._first: dict[str, int] = {}  # the latest ones last
        self._texts: dict[int, str] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._texts)

    def of(self, part: Vectors) -> Tokens:
        """A text's numbers.

        Raises:
            PromptError: If other than `count` vectors are asked for.
        """
        if part.count != self.count:
            raise PromptError(
                f"the prompt holds {part.count} vectors of one {part.of}, and the model's encoder "
                f"makes {self.count}: set {self._setting} = {self.count}, or train again"
            )
        with self._lock:
            first = self._first.pop(part.text, None)
            if first is None:
                blocks = (self._end - self.base) // self.count
                block = int(hashlib.sha256(part.text.encode()).hexdigest(), 16) % blocks
                while block in self._texts:
                    block = (block + 1) % blocks
                self._texts[block] = part.text
                first = self.base + block * self.count
            self._first[part.text] = first
        return tuple(range(first, first + self.count))

    def text(self, block: int) -> str:
        """The text of the block that `(number - base) // count` gives."""
        return self._texts[block]

    def forget(self, keep: int) -> None:
        """Forgets all but the latest texts; what was read by their numbers must be forgotten too.

        A pass under way may hold the latest.
        """
        with self._lock:
            for text in list(self._first)[: max(0, len(self._first) - keep)]:
                del self._texts[(self._first.pop(text) - self.base) // self.count]

    def blocks(self, sequences: Iterable[Iterable[int]]) -> list[int]:
        """The blocks whose numbers stand in some sequences, in ascending order."""
        found = {
            (one - self.base) // self.count
            for own in sequences
            for one in own
            if self.base <= one < self._end
        }
        return sorted(found)


class VectorFormat(ChatFormat):
    """The chat format of a model with an item encoder."""

    summaries: VectorNumbers | None = None

    def __init__(
        self, tokenizer: Any, name: str, numbers: VectorNumbers, specials: Collection[str] = ()
    ) -> None:
        super().__init__(tokenizer, name, specials=specials)
        self.numbers = numbers

    def text(self, prompt: Prompt) -> str:
        """The prompt as the model's text; vectors are their first number between two marks.

        Raises:
            ModelError: If the chat template refuses the messages.
            PromptError: If a part is neither text nor vectors, or a kind that the model lacks.
        """
        messages = []
        for message in prompt.messages:
            parts = (
                f"{_MARK}{self._numbers(part).of(part)[0]}{_MARK}"
                if isinstance(part, Vectors)
                else part.replace(_MARK, "?")
                if isinstance(part, str)
                else part
                for part in message.parts
            )
            messages.append(Message(message.role, parts))
        return super().text(Prompt(tuple(messages), prompt.draw))

    def _numbers(self, part: Vectors) -> VectorNumbers:
        if part.of == "item":
            return self.numbers
        if self.summaries is None:
            raise PromptError(
                f"the prompt holds {part}, and {self.name} was trained without soft summaries: "
                "train again, or set summarize.strategy = 'none'"
            )
        return self.summaries

    def _tokens(self, texts: Sequence[str]) -> list[Tokens]:
        # at even places words, at odd ones numbers
        cut = [_MARKED.split(text) for text in texts]
        words = super()._tokens([part for parts in cut for part in parts[::2]])
        found, own = [], iter(words)
        for parts in cut:
            tokens = list(next(own))
            for first in map(int, parts[1::2]):
                soft = first >= SUMMARIES and self.summaries
                tokens += range(first, first + (soft or self.numbers).count)
                tokens += next(own)[len(self._bos) :]
            found.append(tuple(tokens))
        return found

    def _decode(self, tokens: Sequence[int]) -> str:
        return super()._decode([token for token in tokens if token < self.numbers.base])
