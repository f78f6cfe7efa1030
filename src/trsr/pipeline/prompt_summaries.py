"""Whose summary a prompt shows: the user's own, or, as an ablation's control, another's."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

from trsr.config import Config
from trsr.data import Dataset
from trsr.errors import DataError
from trsr.pipeline.artifacts import with_summary
from trsr.settings import derive_seed
from trsr.types import Case, Summary


def prompt_summaries(
    config: Config, dataset: Dataset, split: str, summaries: Mapping[str, Summary]
) -> Mapping[str, Summary]:
    """The summaries that prompts of a split show, as `prompts.summary_of` says.

    With `another`, text and sources come from a query of another user of the same split. Who has
    a summary and how much of the history it covers stay the query's own. Donors are sampled per
    user and own text: queries that share a summary share the other's too. Texts are sampled as
    often as they occur, so another's text may equal the own.

    Args:
        config: All settings.
        dataset: The run's data.
        split: train, valid or test.
        summaries: The users' own by query id, of this split and others.

    Returns:
        By query id: with `own` what was given, with `another` the split's.

    Raises:
        DataError: If a query has a summary, and no other user of the split has one.
    """
    if config.prompts.summary_of == "own":
        return summaries
    rows = dataset.cases(split).frame.select("user", "query").rows()
    own = {query: summaries[query] for _, query in rows if query in summaries}
    # sorted, a user's queries lie together: the others are two runs, sampled in one step
    donors = sorted((user, query) for user, query in rows if query in own and own[query].text)
    begins: dict[str, int] = {}
    counts: dict[str, int] = {}
    for place, (user, _) in enumerate(donors):
        begins.setdefault(user, place)
        counts[user] = counts.get(user, 0) + 1
    if len(counts) == 1:
        raise DataError(
            f"{dataset.folder}: prompts.summary_of is another, but of the {split} cases only those "
            f"of user {donors[0][0]} have a summary; take more cases (data.{split}_cases), "
            "summarize smaller blocks (summarize.block_items), or set prompts.summary_of to own"
        )
    shown = dict(own)
    for user, query in donors:
        others = len(donors) - counts[user]
        seed = derive_seed(config.run.seed, "summary of another", split, user, own[query].text)
        place = seed % others
        _, donor = donors[place if place < begins[user] else place + counts[user]]
        other = own[donor]
        shown[query] = dataclasses.replace(own[query], text=other.text, sources=other.sources)
    return shown


def prompt_cases(
    config: Config, dataset: Dataset, split: str, summaries: Mapping[str, Summary]
) -> Iterator[Case]:
    """A split's cases with the summaries that their prompts show, made one at a time."""
    shown = prompt_summaries(config, dataset, split, summaries)
    return (with_summary(case, shown) for case in dataset.cases(split))
