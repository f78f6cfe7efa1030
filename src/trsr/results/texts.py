"""The texts of the page of results and of its sections' own pages, from what they are to tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trsr.markdown import template
from trsr.results.file import END, TOP, Plan

SIGN = "<!-- Written by `trsr results"
"""Begins the line by which a page that may be written over is known."""

EMPTY = "\n\n"
"""What stands between the marks where nothing is noted yet."""


def page_text(plan: Plan, sections: Sequence[Mapping[str, Any]], notes: Mapping[str, str]) -> str:
    """The page.

    Args:
        plan: Its file.
        sections: What each tells, in order; with `body`, its text as it stood.
        notes: What people wrote, by the names of its marks.
    """

    def noted(name: str) -> str:
        mark = f"<!-- notes: {name} -->"
        return f"{mark}{notes.get(name, EMPTY)}{mark}"

    return template("trsr.results", "results.md.jinja").render(
        title=plan.title,
        sign=f"{_sign(plan)}: only what stands between two marks of notes is kept. -->",
        sections=sections,
        folder=plan.details,
        noted=noted,
        top=TOP,
        end=END,
    )


def details_text(plan: Plan, section: Mapping[str, Any], page: str) -> str:
    """A section's own page.

    Args:
        plan: The page's file.
        section: What it tells.
        page: The name of the page of results.
    """
    sign = f"{_sign(plan)}: nothing is kept. -->"
    return template("trsr.results", "details.md.jinja").render(
        section=section, sign=sign, page=page
    )


def _sign(plan: Plan) -> str:
    return f"{SIGN} {plan.path.name if plan.path.is_absolute() else plan.path.as_posix()}`"
