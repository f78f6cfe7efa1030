"""What of a sequence's beginning is kept, so that nobody computes it again: keys and values."""

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
    """Prefixes kept between calls, the latest used ones within a budget of tokens.

    Users share the instruction, and a user who comes back with other candidates shares the whole
    of what stands before them: what a new sequence begins alike with a kept one is not computed
    again. Holds for one set of weights.

    Args:
        budget: How many tokens' keys and values may be kept; 0: none.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self._kept: OrderedDict[Tokens, Prefix] = OrderedDict()

    def find(self, run: Tokens, most: int) -> Prefix | None:
        """The longest beginning of a run, of at most so many tokens, that is kept."""
        length, best = 0, None
        for tokens in self._kept:
            shared = min(common(tokens, run), most)
            if shared > length:
                length, best = shared, tokens
        if best is None:
            return None
        self._kept.move_to_end(best)
        return self._kept[best].first(length)

    def keep(self, prefixes: Iterable[Prefix | None]) -> None:
        """Keeps prefixes in place of those that they begin with, and of the longest unused."""
        for prefix in filter(None, prefixes):
            shared = {one: common(one, prefix.tokens) for one in self._kept}
            if len(prefix.tokens) > self.budget or len(prefix.tokens) in shared.values():
                continue
            for known in [one for one, length in shared.items() if length == len(one)]:
                del self._kept[known]
            self._kept[prefix.tokens] = prefix
            while sum(map(len, self._kept)) > self.budget:
                self._kept.popitem(last=False)
