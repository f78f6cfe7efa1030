"""What a run will take, before it runs: tokens, seconds, memory, dollars (`trsr plan`)."""

from trsr.planning.estimate import Plan, StagePlan, long_run, plan

__all__ = ["Plan", "StagePlan", "long_run", "plan"]
