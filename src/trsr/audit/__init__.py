"""Looks for what would make a run's figures untrue: leaks, shortcuts, biases, idle inputs."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trsr.audit.checks import Audit, audit
    from trsr.audit.evidence import Check

__all__ = ["Audit", "Check", "audit"]

_HOMES = {"Audit": "checks", "Check": "evidence", "audit": "checks"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'trsr.audit' has no attribute {name!r}")
    return getattr(importlib.import_module(f"trsr.audit.{_HOMES[name]}"), name)
