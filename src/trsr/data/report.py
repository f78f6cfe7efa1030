"""Counts what preparation read, kept and left out, and reports it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from trsr.errors import DataError

LABELS: dict[str, str] = {
    "interactions_read": "interactions read",
    "rows_without_ids": "left out: rows without a user or an item",
    "other_events": "left out: rows of events that data.events does not name",
    "cancelled": "left out: rows with a quantity of 0 or less, or none",
    "rows_without_time": "left out: rows without a time",
    "service_events": "further events of a service (data.service_log)",
    "deleted_users": "left out: interactions of users whom the service deleted",
    "users_merged": "user ids merged: alike but for spaces, control characters or .0",
    "items_merged": "item ids merged: alike but for spaces, control characters or .0",
    "duplicates": "left out: the same user, item and time again",
    "unknown_items": "left out: interactions with an item that the items' file does not have",
    "below_min_rating": "left out: rated below min_rating, or not rated",
    "repeats_kept": "interactions with an item that the user already had (see data.drop_repeats)",
    "repeats": "left out: items that the user already had (drop_repeats)",
    "long_users": "left out: users with more than max_items_per_user interactions",
    "long_users_interactions": "left out: interactions of such users",
    "k_core_users": "left out: users outside the k-core",
    "k_core_items": "left out: items outside the k-core",
    "k_core_interactions": "left out: interactions outside the k-core",
    "sessions_without_user": "lines without a user column: each is a user of its own",
    "other_rows_of_user": "left out: further lines of a user (the longest history is used)",
    "other_locale": "left out: lines of another locale",
    "interactions": "interactions kept",
    "users": "users",
    "mean_interactions": "mean interactions a user",
    "unsorted": "interactions that were not in time order in the file (sorted)",
    "equal_times": "neighbouring interactions of a user at the same time (see data.ties)",
    "items_read": "items read",
    "items_without_id": "left out: items without an id",
    "items_twice": "further rows of an item (what they add is kept)",
    "items_varying": "items whose rows have different texts (the most frequent is kept)",
    "service_items": "items that came from a service, or have its text (data.service_log)",
    "items": "items",
    "items_without_text": "items without any text",
    "texts_with_html": "texts with HTML (tags dropped, entities decoded)",
    "texts_cleaned": "texts with control characters (replaced by spaces)",
    "texts_shortened": "texts cut to the longest length kept",
    "images": "items with an image",
    "images_distinct": "distinct images",
    "items_without_image": "items without an image",
    "images_unusable": "items whose image cannot be used",
    "impressions": "lists of given candidates",
    "impressions_unmarked": "left out: given candidates not marked as clicked or not",
    "impressions_without_user": "left out: lists without a user",
    "impressions_without_time": "left out: lists without a time",
    "impressions_twice": "left out: the same user, time and list again",
    "impressions_unknown_user": "left out: lists of users without any interaction",
    "impressions_short": "left out: lists of users with a history shorter than data.min_history",
    "impressions_empty": "left out: lists without a candidate",
    "candidates_without_id": "left out: given or clicked candidates without an id",
    "unknown_candidates": "left out: given candidates that are not in the catalog",
    "candidates_twice": "left out: candidates twice in a list",
    "clicked_not_shown": "left out: clicked items that are not among their list's known candidates",
    "impressions_without_answer": "left out: lists in which nothing known was clicked",
    "impressions_without_choice": "left out: lists in which all that is known was clicked",
    "short_train": "training targets left out: history shorter than data.min_history",
    "short_valid": "validation targets left out: history shorter than data.min_history",
    "short_test": "test targets left out: history shorter than data.min_history",
    "repeats_test": "test targets left out: the user has seen the item before (candidates = full)",
    "late_train": "left out of training: labelled train, but after a held-out target",
    "short_users": "users left out: history shorter than data.min_history",
    "not_drawn": "users sampled for no split",
    "train_interactions": "interactions for fitting",
    "cases_train": "training cases",
    "cases_valid": "validation cases",
    "cases_test": "test cases",
    "history_train": "mean history of a training case",
    "history_valid": "mean history of a validation case",
    "history_test": "mean history of a test case",
}
"""What each count means, in the order in which a report shows them."""

_LOST = "left out"
"""In the labels of what does not reach the cases."""


@dataclass(frozen=True, slots=True)
class DataReport:
    """What preparation read, kept and left out.

    Attributes:
        counts: name → number; the names are those of `LABELS`.
        warnings: Sentences about what looks wrong but was not refused.
    """

    counts: Mapping[str, int | float]
    warnings: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """A line for each count that is not zero, then the warnings."""
        always = ("interactions_read", "items_read", "cases_train", "cases_valid", "cases_test")
        shown = [
            f"{_number(self.counts[name]):>12}  {label}"
            for name, label in LABELS.items()
            if name in self.counts and (self.counts[name] or name in always)
        ]
        return shown + [f"warning: {text}" for text in self.warnings]

    def remarks(self) -> list[str]:
        """One line with all that was left out, where anything was, then the warnings."""
        lost = [
            f"{_number(number)} {label.removeprefix(f'{_LOST}: ').replace(f' {_LOST}:', ':')}"
            for name, label in LABELS.items()
            if _LOST in label and (number := self.counts.get(name))
        ]
        line = [f"{_LOST}: {'; '.join(lost)}"] if lost else []
        return line + [f"warning: {text}" for text in self.warnings]


@dataclass(slots=True)
class RowCounts:
    """Counts and warnings, gathered during preparation."""

    counts: dict[str, int | float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def add(self, name: str, number: int | float) -> None:
        """Adds to a count; its name must have a label."""
        if name not in LABELS:
            raise KeyError(f"the count {name!r} has no label")
        self.counts[name] = self.counts.get(name, 0) + number

    def warn(self, text: str) -> None:
        """Adds a warning."""
        self.warnings.append(text)

    def error(self, message: str) -> DataError:
        """An error whose message ends with all counts."""
        return DataError("\n".join([f"{message}:", *self.report().lines()]))

    def report(self) -> DataReport:
        """The report, its counts in the order of the labels."""
        ordered = {name: self.counts[name] for name in LABELS if name in self.counts}
        return DataReport(ordered, tuple(self.warnings))


def _number(value: float) -> str:
    return f"{value:,.2f}" if isinstance(value, float) else f"{value:,}"
