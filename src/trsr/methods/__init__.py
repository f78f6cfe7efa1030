"""Methods: published ways to recommend, each a name for its stages and for settings of its own.

A configuration that says `method = "tallrec"` has that method's defaults where it says nothing
itself. Other packages add methods by entry points (`trsr.methods`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trsr.registry import PluginTable

DEFAULT = "llm_trsr"

METHODS = PluginTable(
    "method",
    "trsr.methods",
    {
        "llm_trsr": "trsr.methods.llm_trsr:METHOD",
        "tallrec": "trsr.methods.tallrec:METHOD",
        "llm_seq_sim": "trsr.methods.llm_seq_sim:METHOD",
        "llm2bert4rec": "trsr.methods.llm2bert4rec:METHOD",
        "mllm_msr": "trsr.methods.mllm_msr:METHOD",
        "llm_seq_prompt": "trsr.methods.llm_seq_prompt:METHOD",
        "od_llm": "trsr.methods.od_llm:METHOD",
        "llm2rec": "trsr.methods.llm2rec:METHOD",
    },
)
"""Each part is a `Method`."""


@dataclass(frozen=True)
class Method:
    """A published way to recommend.

    Attributes:
        name: As a configuration names it.
        description: What it does, in a line.
        source: The paper.
        stages: The names of its stages, in order.
        config: Tables of settings; a configuration that says otherwise is right.
    """

    name: str
    description: str
    source: str
    stages: tuple[str, ...]
    config: Mapping[str, Any] = field(default_factory=dict)

    def fill(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """A configuration's values, with this method's settings where it says nothing."""
        return _filled(values, self.config)


def _filled(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(values)
    for key, default in defaults.items():
        if key not in found:
            found[key] = _filled({}, default) if isinstance(default, Mapping) else default
        elif isinstance(default, Mapping) and isinstance(found[key], Mapping):
            found[key] = _filled(found[key], default)
    return found
