"""What prepared data cannot do, told before the stages that take long."""

from __future__ import annotations

from collections import deque

from trsr.config import Config
from trsr.data import Dataset
from trsr.errors import ConfigError
from trsr.rank import checked
from trsr.rank.blend import check_cases
from trsr.rank.ease import check_size
from trsr.rank.lists import read_lists
from trsr.rank.settings import JUDGES


def check_prepared(config: Config, dataset: Dataset) -> None:
    """Refuses settings that a later stage would refuse, once it is known what the data holds.

    Raises:
        ConfigError: If validation cases are needed and there are none, or a ranker is given more
            items than it may be.
        DataError: If lists made elsewhere are not those of the cases' candidates.
    """
    made = set(config.rank.rankers)
    if config.data.candidates == "full" and JUDGES & set(config.rank.used):
        made.add(config.rank.first_stage)
    used = config.rank.only(*made).used  # with a blend's members
    if "blend" in used or config.rank.split == "valid":
        cases = len(dataset.cases("valid"))
        if not cases and config.rank.split == "valid":
            raise ConfigError(
                "rank.split is valid, but there are no validation cases; set data.valid_cases"
            )
        if "blend" in used:
            check_cases(cases)
    for name, one in config.rank.elsewhere.items():
        splits = {config.rank.split} if name in config.rank.rankers else set()
        splits |= {config.rank.split, "valid"} if name in config.rank.blended else set()
        lists = read_lists(name, one)
        for split in sorted(splits):
            # each list is looked at, so that none is refused after hours
            deque(checked(lists, dataset.cases(split).queries(), name), maxlen=0)
    if "ease" in used:
        check_size(dataset.interactions["item"].n_unique(), config.rank.ease)
