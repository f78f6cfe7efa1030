"""Checks that every component of a kind must pass, for tests of new ones.

Each raises `AssertionError` with what the component did wrong. They need no test framework.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from trsr.errors import ModelError
from trsr.models.base import LanguageModel, Sampling, ScoringModel
from trsr.summarize.strategies import Flow, Options, Strategy, Writer
from trsr.types import Block, Interaction, Item, Message, Prompt

_MOST_WAITS = 1000  # a backend with threads may look a few times before an answer comes
_WORDS = ("red", "green", "blue", "white", "black", "grey", "brown", "pink")


def some_prompts(count: int, topic: str = "colours") -> list[Prompt]:
    """Small prompts, all different."""
    return [
        Prompt((Message("user", f"{topic} {index}: {_WORDS[index % len(_WORDS)]}. Go on."),))
        for index in range(count)
    ]


class _Chains:
    """A feed of chains: a chain's next prompt is ready only when its last one is answered."""

    def __init__(self, chains: int, steps: int) -> None:
        self.left = dict.fromkeys(range(chains), steps)
        self.ready: list[int] = list(range(chains))
        self.chain_of: list[int] = []
        self.answered: set[int] = set()
        self.waits = 0

    def __iter__(self) -> Iterator[Prompt | None]:
        while self.left:
            if self.ready:
                chain = self.ready.pop()
                position = len(self.chain_of)
                self.chain_of.append(chain)
                yield some_prompts(position + 1, f"chain {chain}")[-1]
                continue
            self.waits += 1
            require(self.waits < _MOST_WAITS, "it asks on without finishing what it has taken")
            yield None

    def answer(self, position: int) -> None:
        require(position < len(self.chain_of), f"it answered prompt {position} before taking it")
        require(position not in self.answered, f"it answered prompt {position} twice")
        self.answered.add(position)
        self.waits = 0
        chain = self.chain_of[position]
        self.left[chain] -= 1
        if self.left[chain]:
            self.ready.append(chain)
        else:
            del self.left[chain]


def require(holds: bool, otherwise: str) -> None:
    """Raises AssertionError unless something holds."""
    if not holds:
        raise AssertionError(otherwise)


def check_language_model(
    model: LanguageModel, sampling: Sampling | None = None, *, repeats: bool = True
) -> None:
    """Checks that a model keeps the contract of `LanguageModel`.

    It sends about thirty short prompts.

    Args:
        model: The model.
        sampling: How it generates; left out: greedily, four tokens.
        repeats: Whether the same prompt must give the same text again.

    Raises:
        AssertionError: If it breaks the contract; the message says how.
    """
    sampling = sampling or Sampling(max_tokens=4)
    require(isinstance(model, LanguageModel), f"{model!r} lacks a part of LanguageModel")
    require(bool(model.identity) and model.identity == model.identity, "its identity is unsteady")
    require(model.context_tokens > 0, "its context holds nothing")
    short, long = some_prompts(1)[0], Prompt((Message("user", "word " * 50),))
    require(0 < model.count_tokens(short) < model.count_tokens(long), "it cannot count tokens")
    require(list(model.generate([], sampling)) == [], "it answered an empty feed")
    _check_plain_feed(model, sampling, repeats)
    _check_waiting_feed(model, sampling)
    _check_laziness(model, sampling)


def _check_plain_feed(model: LanguageModel, sampling: Sampling, repeats: bool) -> None:
    prompts = some_prompts(5)
    answers = list(model.generate(prompts, sampling))
    require(sorted(index for index, _ in answers) == list(range(5)), "not each answered once")
    require(all(isinstance(text, str) for _, text in answers), "an answer is not text")
    if repeats:
        alone = [text for one in prompts for _, text in model.generate([one], sampling)]
        require([dict(answers)[i] for i in range(5)] == alone, "answers depend on their company")
    begun = Prompt((Message("user", "Say a colour."), Message("assistant", "A fine colour is")))
    for _, text in model.generate([begun], sampling):
        require(not text.startswith("A fine colour is"), "it repeats the answer begun for it")


def _check_waiting_feed(model: LanguageModel, sampling: Sampling) -> None:
    feed = _Chains(chains=3, steps=4)
    for position, _ in model.generate(iter(feed), sampling):
        feed.answer(position)
    require(not feed.left, f"it ended with {len(feed.left)} chains unfinished")


def _check_laziness(model: LanguageModel, sampling: Sampling) -> None:
    """A feed may be without end: the first answers must come before its last prompt is read."""

    def endless() -> Iterator[Prompt]:
        for position in range(100_000):
            yield some_prompts(position % 8 + 1)[-1]
        raise AssertionError("it reads all of the feed before it answers")

    answers = iter(model.generate(endless(), sampling))
    next(answers)
    close = getattr(answers, "close", None)
    if close is not None:
        close()


def check_scoring_model(
    model: ScoringModel, answers: Sequence[str] = ("Yes", "No"), *, tolerance: float = 1e-4
) -> None:
    """Checks that a model keeps what `ScoringModel` adds to `LanguageModel`.

    Args:
        model: The model.
        answers: Two different answers, neither of which begins with the other.
        tolerance: How far a log-probability may depend on what is scored beside it.

    Raises:
        AssertionError: If it breaks the contract; the message says how.
    """
    require(isinstance(model, ScoringModel), f"{model!r} lacks a part of ScoringModel")
    prompts = some_prompts(5)
    scores = model.score(prompts, answers)
    require(scores.shape == (5, len(answers)), f"the scores have shape {scores.shape}")
    require(scores.dtype == np.float64, f"the scores are {scores.dtype}")
    require(bool(np.isfinite(scores).all()), "a score is not finite")
    require(bool((scores <= tolerance).all()), "a log-probability is above zero")
    total = np.exp(scores).sum(axis=1)
    require(bool((total <= 1 + tolerance).all()), "different answers together exceed certainty")
    alone = np.concatenate([model.score([prompt], answers) for prompt in prompts])
    require(bool(np.allclose(scores, alone, rtol=0, atol=tolerance)), "scores depend on company")
    reversed_ = model.score(prompts[::-1], answers[::-1])[::-1, ::-1]
    require(bool(np.allclose(scores, reversed_, rtol=0, atol=tolerance)), "scores depend on order")
    require(model.score([], answers).shape == (0, len(answers)), "no prompts give no empty table")
    try:
        model.score(prompts[:1], (answers[0], answers[0]))
    except ModelError:
        return
    raise AssertionError("it scores two answers that cannot be told apart")


_MOST_ROUNDS = 1000


@dataclass(frozen=True, slots=True)
class _Settings:
    fan_in: int


class PlainWriter:
    """A `Writer` whose prompts hold item ids and summaries as they are, for tests of strategies."""

    def write(self, items: Sequence[Item]) -> Prompt:
        """`write` and the ids."""
        return self._say("write", *(item.id for item in items))

    def revise(self, summary: str, items: Sequence[Item]) -> Prompt:
        """`revise`, the summary in brackets, and the ids."""
        return self._say("revise", f"[{summary}]", *(item.id for item in items))

    def merge(self, summaries: Sequence[str]) -> Prompt:
        """`merge` and the summaries in brackets."""
        return self._say("merge", *(f"[{summary}]" for summary in summaries))

    def keywords(self, items: Sequence[Item], most: int) -> str:
        """The ids of the items."""
        return " ".join(item.id for item in items)

    def lines(self, items: Sequence[Item]) -> list[str]:
        """The ids of the items, each on a line."""
        return [item.id for item in items]

    def _say(self, *words: str) -> Prompt:
        return Prompt((Message("user", " ".join(words)),))


def drive(flow: Flow, answer: Callable[[Prompt], str]) -> tuple[str, list[list[Prompt]]]:
    """Runs one flow to its end with a function for a model.

    Returns:
        The summary, and the prompts of each round.

    Raises:
        AssertionError: If the flow does not end.
    """
    rounds: list[list[Prompt]] = []
    try:
        prompts = next(flow)
        while len(rounds) < _MOST_ROUNDS:
            rounds.append(list(prompts))
            prompts = flow.send([answer(prompt) for prompt in prompts])
    except StopIteration as end:
        return str(end.value), rounds
    raise AssertionError(f"the flow has not ended after {_MOST_ROUNDS} rounds")


def check_strategy(
    make: Callable[[Writer, Options], Strategy],
    *,
    most_blocks: int = 12,
    reads: bool = True,
    asks: bool = True,
) -> None:
    """Checks that a strategy ends, and that its summary has read every block, in time order.

    The fake model answers with its prompt, so a summary that has read a block holds its
    items' ids.

    Args:
        make: Makes the strategy of a writer and options, as the table of strategies does.
        most_blocks: Histories of one block to so many are tried.
        reads: Whether it reads histories at all.
        asks: Whether it uses a model.

    Raises:
        AssertionError: If it breaks the contract; the message says how.
    """
    for fan_in in (2, 3, 5):
        strategy = make(PlainWriter(), _Settings(fan_in))
        for count in range(1, most_blocks + 1):
            _check_history(strategy, _blocks(count), reads, asks)


def _check_history(strategy: Strategy, blocks: Sequence[Block], reads: bool, asks: bool) -> None:
    count = len(blocks)
    ids = [item.id for block in blocks for item in block.items]
    text, rounds = drive(strategy.flow(blocks), lambda prompt: prompt.messages[-1].content)
    if not reads:
        require((text, rounds) == ("", []), "it uses a model though it reads nothing")
        return
    at = [text.find(id_) for id_ in ids]
    require(min(at) >= 0, f"of {count} blocks, the summary has not read {ids[at.index(min(at))]}")
    require(at == sorted(at), f"of {count} blocks, the summary has read them out of time order")
    again, _ = drive(strategy.flow(blocks), lambda prompt: prompt.messages[-1].content)
    require(again == text, "two flows of one strategy disturb each other")
    if not asks:
        require(not rounds, "it uses a model though it needs none")
        return
    silent, _ = drive(strategy.flow(blocks), lambda prompt: "")
    require(silent == "", "it makes a summary though the model wrote nothing")


def _blocks(count: int) -> list[Block]:
    """Blocks of two items, of which no id is part of another."""
    return [
        Block(tuple(Interaction(Item(f"<{2 * n + i}>"), float(n)) for i in range(2)), 2 * n)
        for n in range(count)
    ]
