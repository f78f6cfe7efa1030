"""Measures this machine: each part of trsr beside the plain way to do it, in turn in one run."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from benchmarks import run as benches
from benchmarks.options import (
    AllOptions,
    ClusterOptions,
    EncodeOptions,
    GpuOptions,
    Options,
    OverheadOptions,
    PrepareOptions,
    ScoreOptions,
    ServeOptions,
    SummarizeOptions,
    TrainOptions,
    VectorsOptions,
    add_options,
    read_options,
)
from benchmarks.records import HEADER, Result, rows
from trsr.bars import err
from trsr.cli.terminal import Bar, complain, out, table
from trsr.errors import TrsrError
from trsr.progress import Progress


def main(words: Sequence[str] | None = None) -> int:
    """Runs a bench; 2 where it cannot be run, with why on standard error."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="BENCH", dest="bench")
    for name, (options, _, help_) in BENCHES.items():
        add_options(commands.add_parser(name, help=help_, description=help_), options)
    asked = parser.parse_args(words)
    kind, run, _ = BENCHES[asked.bench]
    options_ = read_options(kind, asked)
    try:
        for result in run(options_):
            show(result, json=options_.json)
    except TrsrError as error:
        complain(str(error))
        return 2
    return 0


def show(result: Result, *, json: bool) -> None:
    """The records on standard output; with JSON, what no key holds goes to standard error."""
    if json:
        for record in result.records:
            out.print(record.to_json(), markup=False)
    else:
        out.print(result.title, markup=False)
        table(HEADER, rows(result.records))
    for note in result.notes:
        (err if json else out).print(note, markup=False)


def _one(work: Callable[[Any, Progress], Iterable[Result]]) -> Callable[[Any], Iterable[Result]]:
    """Runs one bench under a bar."""

    def run(options: Any) -> Iterable[Result]:
        with Bar(work.__name__) as bar:
            return work(options, bar)

    return run


def _all(options: AllOptions) -> Iterable[Result]:
    from benchmarks.page import check_page, write_page
    from benchmarks.suite import run_all

    if options.only:
        check_page(options.output)  # before hours of measuring, not after
    results = []
    for result in run_all(options, Bar, lambda why: err.print(why, markup=False)):
        yield result
        results.append(result)
        write_page(options.output, results, options.command())  # a stop keeps what was measured
    err.print(f"wrote {options.output}", markup=False)


BENCHES: dict[str, tuple[type[Options], Callable[[Any], Iterable[Result]], str]] = {
    "score": (
        ScoreOptions,
        _one(benches.score),
        "score candidates: random tokens, or real queries",
    ),
    "train": (TrainOptions, _one(benches.train), "make the gradient of a training step"),
    "summarize": (SummarizeOptions, _one(benches.summarize), "write users' summaries, recurrent"),
    "prepare": (PrepareOptions, _one(benches.prepare), "prepare made-up data of growing size"),
    "overhead": (OverheadOptions, _one(benches.overhead), "time that is not the model's"),
    "encode": (EncodeOptions, _one(benches.encode), "encode a catalog by a run's item encoder"),
    "vectors": (
        VectorsOptions,
        _one(benches.vectors),
        "score and train with items as vectors, beside items as texts",
    ),
    "serve": (ServeOptions, _one(benches.serve), "time the live service over a finished run"),
    "gpu": (GpuOptions, _one(benches.gpu), "measure one CUDA card on a model of random weights"),
    "cluster": (
        ClusterOptions,
        _one(benches.cluster),
        "simulate a cluster whose workers fail, by the engine's own dispatching",
    ),
    "all": (AllOptions, _all, "run every bench, or some, and write docs/performance.md"),
}

if __name__ == "__main__":
    sys.exit(main())
