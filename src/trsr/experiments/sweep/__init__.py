"""Many runs of one configuration, a grid or a search; what they share is made once."""

from trsr.experiments.sweep.plan import Plan, label, read_plan
from trsr.experiments.sweep.running import sweep
from trsr.experiments.sweep.table import Outcome, Swept

__all__ = ["Outcome", "Plan", "Swept", "label", "read_plan", "sweep"]
