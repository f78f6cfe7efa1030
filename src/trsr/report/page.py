"""What `report.html` shows besides the report itself, as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from trsr.report.costs import RankerCost

P_YES = "p(yes)"
"""What a ranker's probabilities are called where they are the language model's own."""


@dataclass(frozen=True, slots=True)
class StageTime:
    """What one stage cost.

    Attributes:
        name: The stage's verb.
        seconds: How long it took; None where that is not known.
        counts: What it did, such as `{"tokens": 120000}`; a flag is shown where it is set.
        planned: The same by name as it was planned (`trsr plan`), `seconds` among it.
    """

    name: str
    seconds: float | None
    counts: Mapping[str, object] = field(default_factory=dict)
    planned: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ShownBlock:
    """A block of an example user's history.

    Attributes:
        items: The items' texts, oldest first.
        summary: What was written after reading it; empty where nothing was.
        name: What stands above it.
    """

    items: Sequence[str]
    summary: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class ShownCandidate:
    """A ranked candidate of an example user.

    Attributes:
        text: The item's text.
        p_yes: The probability of yes that its score stands for; None for a ranker without one.
        relevant: Whether it is a right answer.
        place: Its place in the list; empty: as it comes.
        note: Why it has none.
    """

    text: str
    p_yes: float | None
    relevant: bool
    place: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class ShownUser:
    """An example user.

    Attributes:
        user: The user's id.
        blocks: The history, oldest first.
        summary: What stands of the user in the end; empty where nothing.
        candidates: Best first; after those shown, the right ones that are not among them.
        ranker: Who ranked them.
        in_prompt: Whether the ranker read the summary.
        steps: Texts written besides the blocks' summaries, in order.
        steps_name: What these are.
        counted: Which candidates these are, such as `first 50 of 289 candidates`.
        probability_label: What the ranker's probabilities are called.
    """

    user: str
    blocks: Sequence[ShownBlock]
    summary: str
    candidates: Sequence[ShownCandidate]
    ranker: str = ""
    in_prompt: bool = True
    steps: Sequence[str] = ()
    steps_name: str = ""
    counted: str = ""
    probability_label: str = P_YES


@dataclass(frozen=True, slots=True)
class Page:
    """What the page shows besides the report. Every part may be left out.

    Attributes:
        title: The page's head line.
        subtitle: One line below it, such as the data and the model.
        settings: section → key → value, or key → value.
        changed: Those of them that are no defaults, in the same form.
        made: (what, which) of the machine and the packages that made the run.
        stages: In the order they run.
        curve: (step, training loss).
        validation: (step, what the best adapter is chosen by).
        validated: What that is, in a few words.
        examples: Some users.
        examples_notes: What is shown of them.
        trec: Whether there are files for other tools.
        costs: What rankers took.
        costs_note: Said where costs are not known; empty: nothing is.
    """

    title: str = "Recommendation report"
    subtitle: str = ""
    settings: Mapping[str, object] = field(default_factory=dict)
    changed: Mapping[str, object] = field(default_factory=dict)
    made: Sequence[tuple[str, str]] = ()
    stages: Sequence[StageTime] = ()
    curve: Sequence[tuple[int, float]] = ()
    validation: Sequence[tuple[int, float]] = ()
    validated: str = "Validation"
    examples: Sequence[ShownUser] = ()
    examples_notes: Sequence[str] = ()
    trec: bool = False
    costs: Sequence[RankerCost] = ()
    costs_note: str = ""
