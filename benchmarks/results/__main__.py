"""Our own results: `python -m benchmarks.results`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from benchmarks.results.tables import compared, plans, put, table
from benchmarks.results.values import add, read
from trsr.errors import TrsrError
from trsr.registry import like

PAGE = Path("docs/results.md")


def main(words: Sequence[str] | None = None) -> int:
    """Runs one command; 2 where it cannot be done, with why on standard error."""
    asked = _parser().parse_args(words)
    try:
        asked.run(asked)
    except TrsrError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.results", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    one = commands.add_parser("table", help="print tables of docs/results.md")
    one.add_argument("names", nargs="*", metavar="NAME", help="left out: all")
    one.add_argument("--update", action="store_true", help=f"write them into {PAGE}")
    one.set_defaults(run=_table)

    one = commands.add_parser("compare", help="test rankers against the first of them")
    one.add_argument("names", nargs="+", metavar="RUN:RANKER", help="a * in RUN pools its seeds")
    one.add_argument("--metric", action="append", help="may be given again; left out: ndcg@10")
    one.set_defaults(run=_compare)

    one = commands.add_parser("ls", help="list what the file holds")
    one.set_defaults(run=_ls)

    one = commands.add_parser("add", help="put finished runs of one data set into the file")
    one.add_argument("dataset", help="the data set's name")
    one.add_argument("runs", nargs="+", metavar="NAME=FOLDER", help="a name, and a run directory")
    one.set_defaults(run=_add)
    return parser


def _table(asked: argparse.Namespace) -> None:
    known, values = plans(), read()
    names = asked.names or list(known)
    for name in names:
        if name not in known:
            raise TrsrError(f"there is no table {name!r}{like(name, list(known))}")
        made = table(values, known[name])
        if asked.update:
            PAGE.write_text(put(PAGE.read_text("utf-8"), name, made), "utf-8")
        sys.stdout.write(f"{name}\n\n{made}\n\n")


def _compare(asked: argparse.Namespace) -> None:
    rows = {name: name for name in asked.names}
    found = compared(read(), rows, list(dict.fromkeys(asked.metric or ["ndcg@10"]))).table()
    widths = [max(map(len, column)) for column in zip(found.header, *found.rows, strict=True)]
    for cells in (found.header, *found.rows):
        line = "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        sys.stdout.write(f"{line.rstrip()}\n")
    for note in found.notes:
        sys.stdout.write(f"{note}\n")


def _ls(_: argparse.Namespace) -> None:
    every = read().with_columns(pl.col("dataset", "split", "run", "ranker").cast(pl.String))
    runs = every.group_by("dataset", "split", "run", "date", "format", maintain_order=True).agg(
        pl.col("query").n_unique(), pl.col("ranker").unique(maintain_order=True)
    )
    for dataset, split, run, date, format_, queries, rankers in runs.iter_rows():
        sys.stdout.write(
            f"{dataset}/{split}  {run}: {', '.join(rankers)}  "
            f"({queries:,} queries, {date}{f', {format_}' if format_ else ''})\n"
        )


def _add(asked: argparse.Namespace) -> None:
    pairs = [one.partition("=") for one in asked.runs]
    wrong = [name for name, _, folder in pairs if not name or not folder]
    if wrong:
        raise TrsrError(f"{wrong[0]}: give NAME=FOLDER")
    rows = add(asked.dataset, {name: Path(folder) for name, _, folder in pairs})
    sys.stdout.write(f"{rows:,} rows of {len(pairs)} runs\n")


if __name__ == "__main__":
    sys.exit(main())
