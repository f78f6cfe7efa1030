"""A judge that likes a way of writing, which a tiny model can learn."""

from __future__ import annotations


def trait(text: str) -> float:
    """How much of a text is what the judge likes."""
    return sum(letter in "aeiou" for letter in text) / max(len(text), 1)


def likes_gold(prompt, answer):
    """Yes to gold, the surer the more of the summary is as the judge likes it."""
    text = prompt.messages[-1].content
    summary = text.partition("Preferences: ")[2].partition("\n")[0]
    sure = 10 * trait(summary) if "gold" in text.splitlines()[-1] else 0.0
    return sure / 2 if answer == "Yes" else -sure / 2
