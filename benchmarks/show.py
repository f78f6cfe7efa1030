"""Records as the rows of a table for people."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.records import Record

HEADER = (
    *("variant", "dtype", "prompts", "tokens", "distinct", "token ratio", "seconds", "tokens/s"),
    *("prompts/s", "ratio", "spread", "peak share", "peak memory"),
)


def rows(records: Sequence[Record]) -> list[list[str]]:
    """One row a record, under `HEADER`."""
    return [_row(one) for one in records]


def _row(one: Record) -> list[str]:
    return [
        one.variant,
        one.dtype or "–",
        _count(one.prompts),
        _count(one.tokens),
        _count(one.distinct_tokens),
        _times(one.token_ratio),
        f"{one.seconds:.3g}" if one.seconds < 100 else f"{one.seconds:,.0f}",
        _count(one.tokens_per_second),
        "–" if one.prompts is None else f"{one.prompts / one.seconds:.3g}",
        _times(one.ratio),
        f"{one.spread:.1%}",
        "–" if one.peak_share is None else f"{one.peak_share:.1%}",
        "–" if one.peak_memory_bytes is None else f"{one.peak_memory_bytes / 2**30:.2f} GiB",
    ]


def _count(number: float | None) -> str:
    return "–" if number is None else f"{number:,.0f}"


def _times(number: float | None) -> str:
    return "–" if number is None else f"{number:.2f}"
