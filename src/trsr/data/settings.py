"""The settings of data preparation, and the table of readers."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_serializer, model_validator

from trsr.registry import PluginTable
from trsr.settings import Settings
from trsr.storage.addresses import shown

READERS = PluginTable(
    "reader",
    "trsr.readers",
    {
        "table": "trsr.data.readers.table:TableReader",
        "recbole": "trsr.data.readers.recbole:RecBoleReader",
        "movielens": "trsr.data.readers.movielens:MovieLensReader",
        "mind": "trsr.data.readers.mind:MindReader",
        "amazon_m2": "trsr.data.readers.amazon:AmazonM2Reader",
        "amazon_reviews": "trsr.data.readers.amazon:AmazonReviewsReader",
    },
)

LISTLESS = frozenset({"recbole", "movielens", "amazon_m2", "amazon_reviews"})
"""Readers of formats that hold no candidate lists."""


class Columns(Settings):
    """Which column of the files holds what; empty: found by name, or absent."""

    user: str = Field("", description="interactions: the user's id")
    item: str = Field("", description="interactions: the item's id")
    time: str = Field("", description="interactions: the time; absent: the file's order")
    order: str = Field(
        "",
        description="interactions: orders a user's rows of one time: a step, a finer clock",
    )
    event: str = Field("", description="interactions: the kind of event, for data.events")
    quantity: str = Field(
        "", description="interactions: how many; rows with 0 or less, cancelled, are left out"
    )
    texts: list[str] = Field(
        [],
        description="without data.items: the columns of the interactions that describe the item; "
        "empty: all that hold nothing else",
    )
    rating: str = Field("", description="interactions: a rating, for min_rating")
    sequence: str = Field(
        "",
        description="interactions: a user's items oldest first, as a list or separated by spaces "
        "or commas, when a row is a user and not an interaction",
    )
    split: str = Field("", description="interactions: train, valid or test, for split = given")
    item_id: str = Field("", description="items: the item's id")
    candidates: str = Field("", description="impressions: the items of a list, as `sequence`")
    clicked: str = Field(
        "", description="impressions: which of them were clicked, one or several, as `sequence`"
    )


class DataSettings(Settings):
    """Where the data is, what is kept of it, and how it becomes cases."""

    reader: str = Field("table", description="the files' format: see `trsr ls readers`")
    interactions: Path | None = Field(
        None,
        description="a file; table: or a folder of files or a pattern (`logs/clicks-*.csv.gz`), "
        "read as one table in the order of the names; for formats of several files, their folder",
    )
    items: Path | None = Field(
        None,
        description="likewise; table: left out, each interaction describes its item "
        "(columns.texts)",
    )
    impressions: Path | None = Field(
        None,
        description="table: likewise, the candidate lists for candidates = given: a row a list "
        "with its user, time, candidates and clicked items; its first line (CSV, TSV) names the "
        "columns, user and time as in the interactions or as usual",
    )
    service_log: Path | None = Field(
        None,
        description="the folder of a service's log (`trsr serve RUN --write-log FOLDER`): its "
        "events and items are added to the files, and users whom it deleted are left out",
    )
    images: str = Field(
        "",
        description="the items' images: a column of the items (a path beside their file or "
        "folder, or the image's bytes in Parquet), or a folder there with files named by item ids; "
        "empty: none",
    )
    max_without_image: float = Field(
        0.2,
        ge=0,
        le=1,
        description="refuse the data when a larger share of items has no image that can be used; "
        "the others are shown as having none",
    )
    dataset: str = Field(
        "", description="a data set that `trsr get` knows, instead of paths, such as ml-100k"
    )
    columns: Columns = Field(Columns(), description="table: which column holds what")
    separator: str = Field("", description="table: the field separator; empty: found")
    header: bool = Field(
        True,
        description="table: the first line of the interactions (CSV, TSV) names the columns; "
        'false: the columns are called "1", "2", …',
    )
    items_header: bool = Field(True, description="table: the same for the items' file")
    encoding: str = Field(
        "utf-8", description="of the text files; utf-16: those without its mark are utf-8"
    )
    locale: str = Field("", description="amazon_m2: keep sessions and products of this locale")
    time_format: str = Field(
        "", description='how dates are written, such as "%d/%m/%Y %H:%M"; empty: found'
    )
    ties: Literal["file", "drawn", "step"] = Field(
        "file",
        description="interactions of a user at one time: file: in the file's order; drawn: in an "
        "order drawn by seed; step: drawn, and no history holds what has its target's time, such "
        "as the rest of a basket",
    )
    events: list[str] = Field(
        [],
        description='kinds of events (columns.event) that are kept, such as ["cart", "purchase"]; '
        "empty: all",
    )
    max_unknown: float = Field(
        0.05,
        ge=0,
        le=1,
        description="refuse the data when a larger share of interactions has an unknown item",
    )
    min_rating: float | None = Field(None, description="keep interactions rated at least this")
    k_core: int = Field(
        0, ge=0, description="keep users and items with at least this many interactions, together"
    )
    min_history: int = Field(
        3, ge=1, description="interactions a case's history must hold; shorter ones are counted"
    )
    max_history: int = Field(
        25, ge=0, description="keep the latest interactions of a history; 0 keeps all"
    )
    history_step: int = Field(
        1,
        ge=1,
        description="to stay within max_history, a history loses its oldest interactions so many "
        "at a time: a user's cases then share the texts of their blocks; 1: exactly the latest",
    )
    max_items_per_user: int = Field(
        0, ge=0, description="leave out users with more interactions; 0 keeps all (paper: 26)"
    )
    drop_repeats: bool = Field(
        False, description="leave out interactions with an item that the user already had"
    )
    split: Literal["leave_last_out", "global_time", "rows", "given"] = Field(
        "leave_last_out",
        description="leave_last_out: a user's last item is for test, the one before for "
        "validation; global_time: by date; rows: each user in one split, its last item the target "
        "(paper); given: by a column",
    )
    valid_share: float = Field(0.1, ge=0, lt=1, description="global_time: share of interactions")
    test_share: float = Field(0.1, gt=0, lt=1, description="global_time: share of interactions")
    train_users: int = Field(
        0, ge=0, description="most training users, each with targets_per_user cases; 0: all"
    )
    valid_cases: int = Field(0, ge=0, description="most validation cases; 0: all")
    test_cases: int = Field(0, ge=0, description="most test cases; 0: all")
    same_users: bool = Field(
        False,
        description="draw train_users, valid_cases and test_cases from one order of users: the "
        "three then share users, and each reuses the summaries of the others",
    )
    targets_per_user: int = Field(
        1,
        ge=1,
        description="training cases a user: its last training item and earlier ones, each with the "
        "history before it",
    )
    candidates: Literal["uniform", "popular", "full", "given"] = Field(
        "uniform",
        description="uniform: negatives drawn from the catalog, all items alike; popular: drawn "
        "in proportion to training interactions + 1; full: at test the whole catalog except what "
        "the user had seen (training and validation cases keep uniform negatives; see "
        "`rank.retriever`); given: the data's own lists (`impressions`, or the reader mind)",
    )
    seed: int | None = Field(
        None,
        description="samples users and candidates; empty: run.seed. Set it to "
        "train with several run.seed and test on the same queries and candidates",
    )
    negatives: int = Field(
        20, ge=1, description="negatives of a validation or test case (paper: 20)"
    )
    train_negatives: int = Field(1, ge=1, description="negatives of a training case (paper: 1)")

    @field_serializer(
        "interactions", "items", "impressions", "service_log", when_used="json-unless-none"
    )
    def _address(self, path: Path) -> str:
        return shown(path)

    @model_validator(mode="after")
    def _room_for_a_step(self) -> Self:
        least = 2 * self.history_step - 1
        if 0 < self.max_history < least:
            raise ValueError(
                f"max_history = {self.max_history} leaves too little beside history_step = "
                f"{self.history_step}: set max_history to at least {least}, or to 0"
            )
        return self

    def limit(self, split: str) -> int:
        """The most training users, validation cases or test cases; 0 for all."""
        limits = {"train": self.train_users, "valid": self.valid_cases, "test": self.test_cases}
        return limits[split]
