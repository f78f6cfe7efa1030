"""Keys and values of prefixes, cached between calls."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from trsr.models.token_tree.tokens import Tokens, common


@dataclass(frozen=True)
class Prefix:
    """A prefix's keys and values.

    Attributes:
        layers: Keys and values by the layer's number, [heads, tokens, head size].
        tokens: Its tokens, from the sequence's first.
    """

    layers: Mapping[int, tuple[Tensor, Tensor]]
    tokens: Tokens

    def first(self, length: int) -> Prefix:
        """The first tokens of it; the same memory."""
        if length == len(self.tokens):
            return self
        layers = {
            number: (keys[:, :length], values[:, :length])
            for number, (keys, values) in self.layers.items()
        }
        return Prefix(layers, self.tokens[:length])


class PrefixCache:
    """The latest used prefixes within a budget of tokens (0: none), for one set of weights.

    Users share the instruction, and a returning user shares all that stands before the candidates.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self._prefixes: OrderedDict[Tokens, Prefix] = OrderedDict()

    @property
    def tokens(self) -> int:
        """How many tokens are cached."""
        return sum(map(len, self._prefixes))

    def goes_on(self, path: Tokens, token: int) -> bool:
        """Whether a cached prefix begins with a path and goes on with a token."""
        end = len(path)
        return any(
            len(one) > end and one[end] == token and one[:end] == path for one in self._prefixes
        )

    def find(self, run: Tokens, most: int) -> Prefix | None:
        """The longest cached prefix of a run, of at most `most` tokens."""
        length, best = 0, None
        for tokens in self._prefixes:
            shared = min(common(tokens, run), most)
            if shared > length:
                length, best = shared, tokens
        if best is None:
            return None
        self._prefixes.move_to_end(best)
        return self._prefixes[best].first(length)

    def add(self, prefixes: Iterable[Prefix | None]) -> None:
        """Adds prefixes; drops cached ones that they extend, then the least recently used."""
        for prefix in filter(None, prefixes):
            shared = {one: common(one, prefix.tokens) for one in self._prefixes}
            if len(prefix.tokens) > self.budget or len(prefix.tokens) in shared.values():
                continue
            for known in [one for one, length in shared.items() if length == len(one)]:
                del self._prefixes[known]
            self._prefixes[prefix.tokens] = prefix
            while self.tokens > self.budget:
                self._prefixes.popitem(last=False)
