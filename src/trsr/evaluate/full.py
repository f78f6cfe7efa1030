"""The answers of full-catalogue cases, and ranked lists that hold the catalogue in part."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from trsr.errors import DataError
from trsr.evaluate.answers import AnswerKey, Batch
from trsr.evaluate.ranks import Counts, Ranks
from trsr.types import RankedList

NOT_FOUND = 1 << 40
"""The place of a relevant item that a list leaves out: beyond every cut-off."""


class Answer(Protocol):
    """What a case with the whole catalogue for candidates asks; `trsr.data.FullAnswer` is one."""

    @property
    def query(self) -> str:
        """The query's id."""

    @property
    def user(self) -> str:
        """The user's id."""

    @property
    def history(self) -> int:
        """The length of the history."""

    @property
    def relevant(self) -> frozenset[str]:
        """The right items."""

    @property
    def met(self) -> frozenset[str]:
        """Items of the catalogue that are no candidates."""


class FullAnswerKey(AnswerKey):
    """Cases whose candidates are the whole catalogue except what the user has met.

    A list may hold any of the candidates. A relevant item that it leaves out counts as not found:
    beyond every cut-off, and last for `auc`; its query stays in the mean.

    Args:
        answers: Read once.
        catalogue: All item ids.

    Raises:
        DataError: If a query stands twice, or a relevant item is no candidate.
    """

    def __init__(self, answers: Iterable[Answer], catalogue: Sequence[str]) -> None:
        super().__init__(())
        self._codes = {item: code for code, item in enumerate(catalogue)}
        self._wanted: list[frozenset[str]] = []
        self._met: list[frozenset[str]] = []
        history = []
        for answer in answers:
            if self._rows.setdefault(answer.query, len(self._rows)) < len(self.users):
                raise DataError(f"query {answer.query} stands twice among the cases")
            wrong = {one for one in answer.relevant if one not in self._codes or one in answer.met}
            if wrong or not answer.relevant:
                what = f"the relevant {sorted(wrong)} are no candidates" if wrong else "no answer"
                raise DataError(f"query {answer.query}: {what}")
            self.users.append(answer.user)
            history.append(answer.history)
            self._wanted.append(answer.relevant)
            self._met.append(answer.met)
        self.queries = list(self._rows)
        self.history = np.array(history, np.int64)
        self.relevant = np.array([len(one) for one in self._wanted], np.int64)
        met = [sum(item in self._codes for item in one) for one in self._met]
        self.candidates = len(catalogue) - np.array(met, np.int64)

    def _check_size(self, ranker: str, ranked: RankedList, row: int) -> None:
        known, met = self._codes, self._met[row]
        invented = [e.item for e in ranked.entries if e.item not in known or e.item in met]
        if invented:
            some = f"{', '.join(invented[:3])}{', …' if len(invented) > 3 else ''}"
            raise DataError(
                f"ranker {ranker}: the list of query {ranked.query} invents {len(invented)} "
                f"({some}): not in the catalogue, or in the history; every ranker must rank "
                "candidates only"
            )

    def _batch(self, ranker: str, lists: Sequence[RankedList], rows: Counts) -> Batch:
        sizes = np.array([len(one.entries) for one in lists])
        real = np.arange(max(int(sizes.max(initial=0)), 1)) < sizes[:, None]
        scores = np.zeros(real.shape)
        right = np.zeros(real.shape, np.bool_)
        scores[real] = [entry.score for one in lists for entry in one.entries]
        right[real] = [
            entry.item in self._wanted[row]
            for row, one in zip(rows.tolist(), lists, strict=True)
            for entry in one.entries
        ]
        for place in np.flatnonzero(np.isnan(scores).any(axis=1))[:1]:
            raise DataError(
                f"ranker {ranker}: query {lists[place].query} has a score that is not a number"
            )
        cut = bool((sizes < self.candidates[rows]).any())
        return Batch(rows, self._with_missing(Ranks.of(scores, right, real), rows), cut)

    def _with_missing(self, found: Ranks, rows: Counts) -> Ranks:
        """The places, with those of the relevant items that the lists leave out.

        Several of one query share its last places, as in a tie of nothing but relevant items.
        """
        lacking = self.relevant[rows] - found.relevant
        left_out = np.repeat(np.arange(len(rows)), lacking)
        together = np.repeat(lacking, lacking)
        beyond: npt.NDArray[np.int64] = np.full(len(left_out), NOT_FOUND, np.int64)
        return Ranks(
            np.concatenate([found.row, left_out]),
            np.concatenate([found.above, beyond]),
            np.concatenate([found.tied, together]),
            np.concatenate([found.partners, together]),
            self.relevant[rows],
            self.candidates[rows],
        )
