"""Many runs of one configuration: a grid of settings, or a search, with what they share made once.

Names are imported when asked for, so that a plan is read without the pipeline.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trsr.experiments.sweep.plan import Plan, label, read_plan
    from trsr.experiments.sweep.running import sweep
    from trsr.experiments.sweep.table import Outcome, Swept

__all__ = ["Outcome", "Plan", "Swept", "label", "read_plan", "sweep"]

_HOMES = {"Outcome": "table", "Swept": "table", "sweep": "running"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'trsr.experiments.sweep' has no attribute {name!r}")
    return getattr(
        importlib.import_module(f"trsr.experiments.sweep.{_HOMES.get(name, 'plan')}"), name
    )
