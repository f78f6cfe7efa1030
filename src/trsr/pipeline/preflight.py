"""What prepared data cannot do, told before the stages that take long."""

from __future__ import annotations

from trsr.config import Config
from trsr.data import Dataset
from trsr.errors import ConfigError
from trsr.rankers import FitData, FitOptions, Resources, case_batches, make_ranker, scored
from trsr.rankers.baselines.ease import EaseRanker, check_size
from trsr.rankers.blend import check_cases


def check_prepared(config: Config, dataset: Dataset) -> None:
    """Refuses settings that a later stage would refuse, once it is known what the data holds.

    Raises:
        ConfigError: If validation cases are needed and there are none, or a ranker is given more
            items than it may be.
        DataError: If lists made elsewhere are not those of the cases' candidates.
    """
    made = set(config.rank.rankers)
    made.add(config.rank.retriever)
    used = config.rank.only(*sorted(made)).used  # with a blend's members
    learning = config.rank.those("learns_weights", used)
    if learning or config.rank.split == "valid":
        cases = len(dataset.cases("valid"))
        if not cases and config.rank.split == "valid":
            raise ConfigError(
                "rank.split is valid, but there are no validation cases; set data.valid_cases"
            )
        if learning:
            check_cases(cases)
    resources = Resources(dataset.catalog, config.rank)
    for name in config.rank.external_lists:
        splits = {config.rank.split} if name in config.rank.rankers else set()
        splits |= {config.rank.split, "valid"} if name in config.rank.asked else set()
        lists = make_ranker(name, resources)
        lists.fit(FitData(dataset.catalog, dataset.interactions), FitOptions())
        for split in sorted(splits):
            # each list is looked at, so that none is refused after hours
            for batch in case_batches(dataset.cases(split), dataset.catalog, {}):
                scored(lists, batch, name)
    for name in used:
        ranker = make_ranker(name, resources)
        if isinstance(ranker, EaseRanker):
            check_size(dataset.interactions["item"].n_unique(), ranker.config)
