"""What `report.html` shows beside the report itself, as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from trsr.evaluate.calibration import Calibration
from trsr.evaluate.correction import Corrected
from trsr.evaluate.costs import RankerCost
from trsr.evaluate.groups import HistoryGroup
from trsr.evaluate.summaries import SummaryTexts


@dataclass(frozen=True, slots=True)
class StageTime:
    """What one stage cost.

    Attributes:
        name: The stage's verb.
        seconds: How long it took; None where that is not known.
        counts: What it did, such as `{"tokens": 120000}`.
    """

    name: str
    seconds: float | None
    counts: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ShownBlock:
    """A block of an example user's history.

    Attributes:
        items: The items' texts, oldest first.
        summary: What was written after reading it; empty where nothing was.
    """

    items: Sequence[str]
    summary: str = ""


@dataclass(frozen=True, slots=True)
class ShownCandidate:
    """A ranked candidate of an example user.

    Attributes:
        text: The item's text.
        p_yes: The model's probability of yes; None for a ranker without one.
        relevant: Whether it is a right answer.
    """

    text: str
    p_yes: float | None
    relevant: bool


@dataclass(frozen=True, slots=True)
class ShownUser:
    """An example user.

    Attributes:
        user: The user's id.
        blocks: The history, oldest first.
        summary: What the ranker was told of the user in the end; empty where nothing.
        candidates: Best first.
        ranker: Who ranked them.
        anothers: Whether the summary is another user's, as an ablation's control.
    """

    user: str
    blocks: Sequence[ShownBlock]
    summary: str
    candidates: Sequence[ShownCandidate]
    ranker: str = ""
    anothers: bool = False


@dataclass(frozen=True, slots=True)
class Page:
    """What the page shows beside the report. Every part may be left out.

    Attributes:
        title: The page's head line.
        subtitle: One line below it, such as the data and the model.
        settings: section → key → value, or key → value.
        stages: In the order they ran.
        curve: (step, training loss).
        validation: (step, what the best adapter is chosen by).
        summaries: What the test cases' summaries hold.
        examples: Some users.
        groups: The queries by length of history.
        corrected: Estimates over the whole catalogue.
        calibrations: Of the rankers that give probabilities.
        costs: What rankers took.
        costs_note: Said where costs are not known; empty: nothing is.
        warnings: Sentences shown first, beside the report's own notes.
    """

    title: str = "Recommendation report"
    subtitle: str = ""
    settings: Mapping[str, object] = field(default_factory=dict)
    stages: Sequence[StageTime] = ()
    curve: Sequence[tuple[int, float]] = ()
    validation: Sequence[tuple[int, float]] = ()
    summaries: SummaryTexts | None = None
    examples: Sequence[ShownUser] = ()
    groups: Sequence[HistoryGroup] = ()
    corrected: Corrected | None = None
    calibrations: Sequence[Calibration] = ()
    costs: Sequence[RankerCost] = ()
    costs_note: str = ""
    warnings: Sequence[str] = ()
