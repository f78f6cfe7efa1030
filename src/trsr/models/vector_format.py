"""Vectors in prompts as numbers beyond the vocabulary, which an embedding layer looks up."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Sequence
from typing import Any

from trsr.errors import PromptError
from trsr.models.chat_format import ChatFormat
from trsr.models.token_tree.tokens import Tokens
from trsr.types import Message, Prompt, Vectors

_MARK = "\ue000"
"""Stands around a number in a text; Unicode gives it no meaning."""
_MARKED = re.compile(f"{_MARK}(\\d+){_MARK}")
_END = 2**31


class VectorNumbers:
    """Numbers for texts: each has as many as an encoder makes vectors of it.

    They follow from the text, so that a training that goes on has the same ones.

    Args:
        base: The first number that is no token's.
        count: Vectors of one text.
    """

    def __init__(self, base: int, count: int) -> None:
        self.base, self.count = base, count
        self._first: dict[str, int] = {}
        self._texts: dict[int, str] = {}

    def of(self, part: Vectors) -> Tokens:
        """A text's numbers.

        Raises:
            PromptError: If other than `count` vectors are asked for.
        """
        if part.count != self.count:
            raise PromptError(
                f"the prompt holds {part.count} vectors of an item, and the model's encoder makes "
                f"{self.count}: set prompts.item_vectors = {self.count}, or train again"
            )
        first = self._first.get(part.text)
        if first is None:
            blocks = (_END - self.base) // self.count
            block = int(hashlib.sha256(part.text.encode()).hexdigest(), 16) % blocks
            while block in self._texts:
                block = (block + 1) % blocks
            self._texts[block] = part.text
            first = self._first[part.text] = self.base + block * self.count
        return tuple(range(first, first + self.count))

    def text(self, block: int) -> str:
        """The text of the block that `(number - base) // count` gives."""
        return self._texts[block]


class VectorFormat(ChatFormat):
    """The chat format of a model with an item encoder.

    Args:
        tokenizer: As of `ChatFormat`.
        name: The model's name, for messages.
        numbers: Stand for the vectors.
        specials: Further text that the model reads as markup.
    """

    def __init__(
        self, tokenizer: Any, name: str, numbers: VectorNumbers, specials: Collection[str] = ()
    ) -> None:
        super().__init__(tokenizer, name, specials=specials)
        self.numbers = numbers

    def text(self, prompt: Prompt) -> str:
        """The prompt as the model's text; vectors are their first number between two marks.

        Raises:
            ModelError: If the chat template refuses the messages.
            PromptError: If a part is neither text nor vectors.
        """
        messages = []
        for message in prompt.messages:
            parts = (
                f"{_MARK}{self.numbers.of(part)[0]}{_MARK}"
                if isinstance(part, Vectors)
                else part.replace(_MARK, "?")
                if isinstance(part, str)
                else part
                for part in message.parts
            )
            messages.append(Message(message.role, parts))
        return super().text(Prompt(tuple(messages), prompt.draw))

    def _tokens(self, texts: Sequence[str]) -> list[Tokens]:
        # at even places words, at odd ones numbers
        cut = [_MARKED.split(text) for text in texts]
        words = super()._tokens([part for parts in cut for part in parts[::2]])
        found, own = [], iter(words)
        for parts in cut:
            tokens = list(next(own))
            for first in map(int, parts[1::2]):
                tokens += range(first, first + self.numbers.count)
                tokens += next(own)[len(self._bos) :]
            found.append(tuple(tokens))
        return found

    def _decode(self, tokens: Sequence[int]) -> str:
        return super()._decode([token for token in tokens if token < self.numbers.base])
