"""Checks of summaries that carry nothing of their user: the prompts' examples, others' texts."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator

from trsr.experiments.audit.evidence import Check, Evidence, counted, folded
from trsr.experiments.audit.overlap import Words
from trsr.experiments.audit.texts import Reader
from trsr.pipeline.artifacts import SPLITS
from trsr.prompts import load_domain
from trsr.prompts.templates import Style, Turn

MANY = 0.05
"""A warning from this share of summaries on."""
ALIKE = 5
"""Words with as many first letters in common count as one word: film, films; school, schools."""
SHORTEST = 4
"""Letters; shorter words are seldom what an example is about."""
NAME = "summaries repeat the prompts' examples"


def repeated_examples(run: Evidence) -> Check:
    """Whether summaries say words of the examples that stand in none of the items they cover.

    A small model that finds nothing like an example's themes in its items takes the example's own.
    """
    config = run.config
    style = getattr(load_domain(config.prompts.domain), config.prompts.style)
    if not run.summaries or not config.summarize.uses_llm or style is None:
        return Check(NAME, "skipped", "no language model wrote summaries")
    own = example_words(style)
    if not own:
        return Check(NAME, "skipped", f"the prompts of style {config.prompts.style} show none")
    reader = Reader(run)
    words = Words(reader)
    found: Counter[str] = Counter()
    summaries = repeating = 0
    for case in itertools.chain.from_iterable(map(reader.cases, SPLITS)):
        summary = run.summaries.get(case.query.id)
        if summary is None or not summary.text:
            continue
        items = case.query.history.items[: summary.covers]
        read = {word[:ALIKE] for item in items for word in words.of(item, told=True)}
        said = own.intersection(folded(summary.text).split())
        repeated = {word for word in said if word[:ALIKE] not in read}
        found.update(repeated)
        summaries += 1
        repeating += bool(repeated)
    if not summaries:
        return Check(NAME, "skipped", "the run has no summaries")
    numbers = {"share": repeating / summaries, "summaries": summaries}
    seen = f"{counted(repeating, summaries, 'summaries')} say words of an example that no item has"
    if found:
        most = ", ".join(f"{word} ({times:,})" for word, times in found.most_common(5))
        seen = f"{seen}: {most}"
    if repeating / summaries < MANY:
        return Check(NAME, "ok", seen, numbers)
    advice = "try prompts.style, or a domain file whose examples are items as yours are"
    return Check(NAME, "warning", f"{seen}; {advice} (prompts.domain)", numbers)


def same_for_all(run: Evidence) -> Check:
    """Whether summaries are empty, or say of several users the same, word for word."""
    name = "summaries that tell no user from another"
    if not run.summaries:
        return Check(name, "skipped", "the run has no summaries")
    users: dict[str, set[str]] = {}
    for summary in run.summaries.values():
        users.setdefault(folded(summary.text), set()).add(summary.user)
    texts = [folded(summary.text) for summary in run.summaries.values()]
    empty = texts.count("")
    shared = sum(bool(text) and len(users[text]) > 1 for text in texts)
    numbers = {"empty": empty, "shared": shared, "summaries": len(texts)}
    seen = f"{empty:,} empty, and {counted(shared, len(texts), 'summaries')} stand for other users"
    if empty + shared < MANY * len(texts):
        return Check(name, "ok", f"{seen}, too", numbers)
    advice = "read some (`trsr show`); try prompts.style, a larger model or other item texts"
    return Check(name, "warning", f"{seen}, too; {advice}", numbers)


def example_words(style: Style) -> frozenset[str]:
    """The examples' own words: those of just one answer of their kind of prompt.

    What several answers say is the form (the user likes, and), not what an example is about.
    """
    own: set[str] = set()
    form: set[str] = set()
    for turns in (style.write, style.revise, style.merge):
        counts = Counter(itertools.chain.from_iterable(_answers(turns)))
        own |= {word for word, times in counts.items() if times == 1}
        form |= {word for word, times in counts.items() if times > 1}
    return frozenset(word for word in own - form if len(word) >= SHORTEST)


def _answers(turns: tuple[Turn, ...]) -> Iterator[frozenset[str]]:
    """The words of each example's answer; what is begun for the model at the end is none."""
    for turn in turns[:-1]:
        if turn.role == "assistant":
            yield frozenset(folded(turn.content).split())
