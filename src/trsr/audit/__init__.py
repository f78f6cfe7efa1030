"""Looks for what would make a run's figures untrue: leaks, shortcuts, biases, idle inputs."""

from trsr.audit.checks import Audit, audit
from trsr.audit.evidence import Check

__all__ = ["Audit", "Check", "audit"]
