"""What a check reads, and what it says."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from trsr.config import Config, load_config
from trsr.data import Cases, Dataset
from trsr.errors import ConfigError, StoreError
from trsr.explanation import page_writer
from trsr.pipeline.artifacts import CASES, SPLITS, read_summaries
from trsr.prompts import PromptWriter
from trsr.rankers import Rankings, read_rankings
from trsr.settings import derive_seed
from trsr.storage import files
from trsr.storage.run_directory import RunDirectory, StageRecord
from trsr.types import Summary

State = Literal["ok", "finding", "warning", "skipped"]
PREPARED = ("config.toml", "items.parquet", "interactions.parquet", *CASES)

_WORDS = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Check:
    """What one check found.

    Attributes:
        name: The check, in a few words.
        state: ok; finding: figures of this run cannot be trusted; warning: a reader must know;
            skipped: could not be looked at.
        seen: What was seen, or why it was skipped, for people.
        numbers: The numbers behind it.
    """

    name: str
    state: State
    seen: str
    numbers: Mapping[str, float | int | str | None] = field(default_factory=dict)


class Evidence:
    """A run's files, read when they are first looked at.

    Raises:
        StoreError: If the folder does not hold all of the prepared data.
        ConfigError: If the run is not about the test cases.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        lacking = [name for name in PREPARED if not files.is_file(self.folder / name)]
        if lacking:
            raise StoreError(
                f"{folder}: not a run directory with prepared data ({', '.join(lacking)} is "
                "missing); make one with `trsr run CONFIG`"
            )
        self.config: Config = load_config(self.folder / "config.toml")
        if self.config.rank.split != "test":
            raise ConfigError(
                f"{folder}: rank.split is {self.config.rank.split}, and an audit is about the test "
                "cases; audit a run with rank.split=test"
            )
        self.dataset = Dataset.load(self.folder)

    @cached_property
    def cases(self) -> dict[str, Cases]:
        """The cases of each split."""
        return {split: self.dataset.cases(split) for split in SPLITS}

    def frame(self, split: str) -> pl.DataFrame:
        """One split's cases as columns, with the `target`: a relevant item.

        Where there are several, one is sampled: the first of a list would stand before the others
        in the candidates, too.
        """
        frame = self.cases[split].frame
        seeds = [derive_seed(0, "audit target", query) for query in frame["query"]]
        place = pl.Series(seeds, dtype=pl.UInt64) % frame["relevant"].list.len()
        return frame.with_columns(
            target=pl.col("relevant").list.get(pl.lit(place.cast(pl.Int64))), split=pl.lit(split)
        )

    @cached_property
    def all_cases(self) -> pl.DataFrame:
        """The cases of all splits, with `target` and `split`."""
        return pl.concat([self.frame(split) for split in self.cases], how="diagonal")

    @cached_property
    def summaries(self) -> dict[str, Summary]:
        """The summaries by query; empty where there are none."""
        return read_summaries(self.folder)

    @cached_property
    def rankings(self) -> dict[str, Rankings]:
        """The ranked lists by ranker; empty where nothing is ranked yet."""
        path = self.folder / "rankings.parquet"
        return read_rankings(path) if files.is_file(path) else {}

    @cached_property
    def writer(self) -> PromptWriter:
        """Writes the run's prompts without a context limit; no model is needed."""
        return page_writer(self.config)

    @cached_property
    def item_texts(self) -> dict[str, str]:
        """What a ranking prompt says of each item, folded, by id."""
        most = self.config.prompts.words
        items = self.dataset.catalog
        return {item.id: folded(self.writer.item_text(item, most)) for item in items}

    @cached_property
    def records(self) -> dict[str, StageRecord]:
        """What the manifest says of the finished stages; empty where there is none."""
        return RunDirectory(self.folder).records()

    @cached_property
    def hashes(self) -> dict[str, str]:
        """SHA-256 as they are now of the files that the manifest names; of those that are there."""
        records = self.records.values()
        names = {name for record in records for name in (*record.files, *record.parents)}
        return RunDirectory(self.folder).hashes(sorted(names))


def auc(right: npt.NDArray[Any], wrong: npt.NDArray[Any]) -> float:
    """The chance that a right item's score is above a wrong one's; a tie counts half."""
    apart = np.sign(np.subtract.outer(right, wrong))
    return float((apart + 1).mean() / 2)


def folded(text: str) -> str:
    """Words in lower case, one space between them."""
    return " ".join(_WORDS.findall(text.casefold()))


def counted(number: int, total: int, what: str) -> str:
    """`3 of 200 test cases (1.5 %)`."""
    share = f" ({100 * number / total:.1f} %)" if total else ""
    return f"{number:,} of {total:,} {what}{share}"
