"""The page about a tuned summarizer: figures, and summaries before and after."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from trsr.config import Config
from trsr.tune_summarizer.keeping import Kept
from trsr.tune_summarizer.result import Tuned


def page(tuned: Tuned, kept: Mapping[str, Kept], config: Config) -> str:
    """The page in Markdown.

    Args:
        tuned: What was found.
        kept: The samples that were learned from.
        config: All settings.
    """
    return "\n".join([*_lines(tuned, kept, config), ""])


def _lines(tuned: Tuned, kept: Mapping[str, Kept], config: Config) -> Iterator[str]:
    told = config.tune_summarizer
    yield from (f"# A tuned summarizer: {config.summarizer.name}", "")
    yield f"{tuned.why[0].upper()}{tuned.why[1:]}."
    yield ""
    if not tuned.kept:
        yield "No model is written: keep the untuned summarizer."
    else:
        yield "Use it with `summarize.model.name=` and this folder's path."
    yield ""
    header, rows = tuned.table()
    yield f"| {' | '.join(header)} |"
    yield f"|{'---|' * len(header)}"
    yield from (f"| {' | '.join(row)} |" for row in rows)
    yield ""
    yield (
        "Δ: tuned minus untuned greedy summaries on the validation cases, paired by user, with "
        "95 % intervals; log-likelihood in nats; p corrected for the rounds (Holm). These cases "
        "chose the round: what the summaries are worth in the end, the test cases tell."
    )
    yield ""
    beaten = {"greedy": "the untuned model's greedy summary", "mean": "the mean of the samples"}
    yield (
        f"Each round drew {told.samples} summaries of {told.users} training users at most "
        f"(temperature {told.temperature}) and learned from each user's best one where it beat "
        f"{beaten[told.against]} by more than {told.margin} nats."
    )
    yield from _figures(tuned)
    yield from _before_after(tuned)
    yield from _learned(kept, told.shown)


def _figures(tuned: Tuned) -> Iterator[str]:
    for one in tuned.rounds:
        gain = "none was kept" if one.gain is None else f"kept ones are {one.gain:.3f} better"
        losses = f"; loss {one.losses[0]:.3f} → {one.losses[1]:.3f}" if one.losses else ""
        yield ""
        yield (
            f"Round {one.number}: a user's samples differ by {one.spread:.3f} nats (standard "
            f"deviation), {gain}{losses}."
        )


def _before_after(tuned: Tuned) -> Iterator[str]:
    shown = [one for one in tuned.rounds if one.shown]
    if not shown:
        return
    chosen = next((one for one in shown if one.number == tuned.kept), shown[-1])
    yield from ("", f"## Validation users before and after round {chosen.number}, drawn by lot", "")
    for one in chosen.shown:
        yield f"**{_cell(one['query'])}** ({one['difference']:+.3f} nats)"
        yield ""
        yield f"- untuned: {_cell(one['untuned'])}"
        yield f"- tuned: {_cell(one['tuned'])}"
        yield ""


def _learned(kept: Mapping[str, Kept], most: int) -> Iterator[str]:
    if not kept or not most:
        return
    yield from ("## Training users: the greedy summary, and the sample that was kept", "")
    for one in list(kept.values())[:most]:
        yield f"**{_cell(one.query)}** ({one.log_likelihood - one.reference:+.3f} nats)"
        yield ""
        yield f"- greedy: {_cell(one.greedy)}"
        yield f"- kept: {_cell(one.text)}"
        yield ""


def _cell(text: str) -> str:
    """Text that stays text in Markdown: what a model wrote is data."""
    for mark in "\\`*_[]<>|#":
        text = text.replace(mark, f"\\{mark}")
    return text or "(nothing)"
