"""What a bench says: one record a variant, and how it is made of times and work."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.timing import Timing


@dataclass(frozen=True, slots=True)
class Record:
    """One variant of one bench. What a bench has none of is None.

    Attributes:
        bench: The bench's name, as on the command line.
        variant: What was done and on what, such as `350+20x60/tree`.
        device: cpu, cuda or mps.
        dtype: The number format that was computed in.
        prompts: How many prompts were answered.
        tokens: Tokens of all of them, as the plain way reads them.
        distinct_tokens: Those left when what prompts begin alike is counted once.
        token_ratio: `tokens` over `distinct_tokens`: the most that sharing can bring.
        seconds: Median over the repeats.
        tokens_per_second: `tokens` over `seconds`.
        ratio: Speed (work a second) over that of the reference way in the same run; 1 for it.
        spread: (slowest − fastest) / median over the repeats.
        peak_share: Floating-point operations a second that the distinct tokens need, over the
            machine's matrix-multiply peak at the same dtype, measured in the same run.
        peak_memory_bytes: On a CPU the process's largest resident size while the variant ran, on
            CUDA the most memory allocated on the device.
    """

    bench: str
    variant: str
    device: str
    dtype: str
    prompts: int | None
    tokens: int | None
    distinct_tokens: int | None
    token_ratio: float | None
    seconds: float
    tokens_per_second: float | None
    ratio: float
    spread: float
    peak_share: float | None
    peak_memory_bytes: int | None

    def to_json(self) -> str:
        """The record as one line of JSON."""
        return json.dumps(dataclasses.asdict(self))


KEYS = tuple(field.name for field in dataclasses.fields(Record))


@dataclass(frozen=True, slots=True)
class Result:
    """What a bench found.

    Attributes:
        title: The bench and its sizes, in words.
        records: One a variant, the reference first.
        notes: What no key holds (agreement with the reference, what was left out), a line each.
    """

    title: str
    records: tuple[Record, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Work:
    """What one variant does in one repeat.

    Attributes:
        units: What speed is counted in: prompts, cases, interactions.
        prompts: Prompts answered; None where there are none.
        tokens: Their tokens.
        distinct_tokens: Their distinct tokens.
        flops: Floating-point operations that the distinct tokens need.
    """

    units: float
    prompts: int | None = None
    tokens: int | None = None
    distinct_tokens: int | None = None
    flops: float | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where a bench runs: device, dtype, and the peak in FLOP/s (None: not measured)."""

    device: str
    dtype: str
    peak: float | None = None


def speed_ratio(timing: Timing, work: Work, reference: Timing, reference_work: Work) -> float:
    """Units a second over the reference's."""
    own = work.units / timing.median
    return own / (reference_work.units / reference.median)


def record(
    bench: str, variant: str, place: Place, timing: Timing, work: Work, ratio: float
) -> Record:
    """One variant's record.

    Args:
        bench: The bench's name.
        variant: The variant's.
        place: Where it ran.
        timing: How long it took.
        work: What it did.
        ratio: Its speed over the reference's.
    """
    tokens, distinct, flops = work.tokens, work.distinct_tokens, work.flops
    rate = flops / timing.median if flops is not None else None
    return Record(
        bench=bench,
        variant=variant,
        device=place.device,
        dtype=place.dtype,
        prompts=work.prompts,
        tokens=tokens,
        distinct_tokens=distinct,
        token_ratio=tokens / distinct if tokens and distinct else None,
        seconds=timing.median,
        tokens_per_second=tokens / timing.median if tokens else None,
        ratio=ratio,
        spread=timing.spread,
        peak_share=rate / place.peak if rate is not None and place.peak else None,
        peak_memory_bytes=timing.peak_memory,
    )


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
