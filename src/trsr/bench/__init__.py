"""Room: bench. How fast the machine in hand does each part, beside the plain way, in one run."""

from trsr.bench.records import KEYS, Record, Result

__all__ = ["KEYS", "Record", "Result"]
