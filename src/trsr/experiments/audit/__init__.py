"""Looks for what would make a run's figures untrue: leaks, shortcuts, biases, unused inputs."""

from trsr.experiments.audit.checks import Audit, audit
from trsr.experiments.audit.evidence import Check

__all__ = ["Audit", "Check", "audit"]
