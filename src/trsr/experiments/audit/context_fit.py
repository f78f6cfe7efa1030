"""Tells whether the whole history would fit into the prompt, item by item."""

from __future__ import annotations

import statistics

from trsr.experiments.audit.evidence import Check, Evidence
from trsr.experiments.audit.texts import Reader

BYTES = 3
"""Of UTF-8 to a token, about: titles of products have 2.6 and films 2.8 to 3.5 with SmolLM2's."""
MOST = 0.9
"""The share of histories that must fit for the whole history to be worth a run of its own."""
NAME = "does the whole history fit into the prompt"


def whole_history(run: Evidence) -> Check:
    """How long test histories are when all of their items are told, and how many of them fit.

    Where they fit, a summary has to beat the items themselves.
    """
    config, reader = run.config, Reader(run)
    most = config.prompts.words
    tell = run.writer.item_text
    sizes = {item.id: len(tell(item, most).encode()) + 3 for item in run.dataset.catalog}  # "- …\n"
    longest_item = max(sizes.values(), default=0)
    lengths, tokens, room = [], [], []
    for case in reader.cases("test"):
        items = case.query.history.items
        # what the prompt says now stays: the instruction above all
        beside = len(reader.shared(case.query).encode()) + longest_item
        lengths.append(len(items))
        tokens.append(sum(sizes[item.id] for item in items) / BYTES)
        room.append(config.model.context_tokens - beside / BYTES)
    if not lengths:
        return Check(NAME, "skipped", "there are no test cases")
    fits = sum(own <= left for own, left in zip(tokens, room, strict=True)) / len(tokens)
    numbers = {
        "items": max(lengths),
        "tokens": statistics.median(tokens),
        "longest": max(tokens),
        "fits": fits,
    }
    size = (
        f"{numbers['items']:,} items at most, about {numbers['tokens']:,.0f} tokens at the median, "
        f"{numbers['longest']:,.0f} at the longest"
    )
    share = f"{100 * fits:.0f} % fit into {config.model.context_tokens:,} tokens"
    if config.prompts.recent >= max(lengths):
        return Check(NAME, "ok", f"it is told whole: {size}; {share}", numbers)
    if fits < MOST:
        return Check(NAME, "ok", f"{size}; {share}, so something must stand for the rest", numbers)
    other = f"summarize.strategy=none prompts.recent={max(lengths)}"
    advice = f"set beside this run one that tells it whole ({other}): a summary has to beat that"
    return Check(NAME, "ok", f"{size}; {share}; {advice}", numbers)
