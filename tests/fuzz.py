"""Throws broken inputs at trsr, area by area, and says what it did wrong.

    python tests/fuzz.py --seconds 300 --seed 1

An input is made from a small clean one, of which cells, keys, rows, files or bytes are spoilt. An
error of trsr's own is right. Wrong is any other one, an input that takes longer than `--limit`
seconds, a row that is neither used nor counted, and a file changed that is none of trsr's. A
process that polars ends over a damaged Parquet file is counted apart. The number and the seed of
an input make it again:

    python tests/fuzz.py --seed 1 --first 1234 --inputs 1 --keep wrong
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

# tables of a few rows: more threads only wait for each other
os.environ.setdefault("POLARS_MAX_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

from fuzzing import areas, readers
from fuzzing.readers import WrongError

from trsr.errors import TrsrError

AREAS: dict[str, tuple[int, Callable[[random.Random, Path], str]]] = {
    "readers": (35, readers.attempt),
    "settings": (15, areas.settings),
    "histories": (25, areas.histories),
    "runs": (15, areas.run_directories),
    "adapters": (1, areas.adapters),
    "endpoints": (9, areas.endpoints),
}
"""Each with its share of the inputs."""


@contextlib.contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Raises `WrongError` after so many seconds, and ends the process where nothing can."""

    def stop(number: int, frame: object) -> None:
        raise WrongError(f"took longer than {seconds} seconds")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    faulthandler.dump_traceback_later(2 * seconds, exit=True)
    try:
        yield
    finally:
        signal.alarm(0)
        faulthandler.cancel_dump_traceback_later()


def once(
    seed: int, number: int, folder: Path, limit: int, wanted: str = ""
) -> tuple[str, str, str]:
    """Tries the input of this number: its area, what came of it, and what was wrong with it."""
    rng = random.Random(f"{seed} {number}")
    shares = [share for share, _ in AREAS.values()]
    area = wanted or rng.choices(list(AREAS), shares)[0]
    try:
        with limited(limit), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return area, AREAS[area][1](rng, folder), ""
    except TrsrError as error:
        return area, "refused", "" if str(error).strip() else "an error without a message"
    except OSError as error:  # which the command line says in a line
        named = error.strerror and not isinstance(error, UnicodeError)
        return area, "refused", "" if named else "".join(traceback.format_exception(error)[-6:])
    except WrongError as error:
        return area, "wrong", str(error)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return area, "wrong", "".join(traceback.format_exception(error)[-6:])


def work(chosen: argparse.Namespace, begin: int, until: float, parent: Connection) -> None:
    """Tries every input whose number is this process's own, and sends what came of each."""
    faulthandler.enable()
    number = begin
    end = chosen.first + chosen.inputs if chosen.inputs else float("inf")
    scratch = Path(tempfile.mkdtemp(dir=chosen.scratch))
    try:
        # what goes wrong here is no input's fault, and importing torch may take longer than one may
        areas.finished(scratch)
        areas.adapted(scratch)
        while number < end and time.time() < until:
            folder = scratch / str(number)
            folder.mkdir()
            area, result, fault = once(chosen.seed, number, folder, chosen.limit, chosen.area)
            parent.send((number, area, "wrong" if fault else result))
            if fault:
                say(f"seed {chosen.seed}, input {number} ({area}): {fault}")
                if chosen.keep:
                    shutil.copytree(
                        folder, chosen.keep / str(number), symlinks=True, dirs_exist_ok=True
                    )
            shutil.rmtree(folder)
            number += chosen.processes
    finally:
        areas.clear(scratch)


def watch(chosen: argparse.Namespace, until: float) -> Counter[tuple[str, str]]:
    """Runs the processes, and counts; one that a library ends is started again behind its input."""
    context = multiprocessing.get_context("spawn")
    came = Counter[tuple[str, str]]()
    going: dict[Connection, tuple[SpawnProcess, int]] = {}

    def begin(number: int) -> None:
        parent, child = context.Pipe(duplex=False)
        process = context.Process(target=work, args=(chosen, number, until, child), daemon=True)
        process.start()
        child.close()
        going[parent] = (process, number)

    for own in range(chosen.processes):
        begin(chosen.first + own)
    while going:
        for one in wait(list(going)):
            process, number = going[one]
            try:
                number, area, result = one.recv()
            except EOFError:
                del going[one]
                process.join()
                if process.exitcode:
                    # polars asks for memory that no machine has, and Rust ends the process
                    result = "ended" if process.exitcode == -signal.SIGABRT else "wrong"
                    came["no area", result] += 1
                    say(f"seed {chosen.seed}, input {number}: exit code {process.exitcode}")
                    begin(number + chosen.processes)
                continue
            came[area, result] += 1
            going[one] = (process, number + chosen.processes)
    return came


def say(line: str) -> None:
    """Prints a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> int:
    """Runs until the time is over; 1 where something was wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--inputs", type=int, default=0, help="stop after so many")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="the first input's number")
    parser.add_argument("--area", choices=AREAS, default="", help="one area alone")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--limit", type=int, default=30, help="seconds that an input may take")
    parser.add_argument("--keep", type=Path, help="where inputs that went wrong are put")
    chosen = parser.parse_args()
    begun = time.time()
    memory = "/dev/shm"  # noqa: S108  (only as a faster place for a temporary folder)
    within = memory if os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="trsr-fuzz-", dir=within) as chosen.scratch:
        came = watch(chosen, begun + chosen.seconds)
    say(f"seed {chosen.seed}: {came.total():,} inputs in {time.time() - begun:,.0f} s")
    for area in dict.fromkeys((*AREAS, *(area for area, _ in came))):
        counts = {result: came[area, result] for result in ("refused", "used", "ended", "wrong")}
        if sum(counts.values()):
            say(f"{area:>10}: {sum(counts.values()):7,}  {counts}")
    return int(any(result == "wrong" for _, result in came))


if __name__ == "__main__":
    sys.exit(main())
