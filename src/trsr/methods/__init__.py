"""Methods: published ways to recommend, each a name for its stages and for settings of its own.

A configuration that says `method = "tallrec"` has that method's defaults where it says nothing
itself. Other packages add methods by entry points (`trsr.methods`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from trsr.registry import PluginTable

DEFAULT = "llm_trsr"

METHODS = PluginTable(
    "method",
    "trsr.methods",
    {
        "llm_trsr": "trsr.methods.published:LLM_TRSR",
        "tallrec": "trsr.methods.published:TALLREC",
        "llm_seq_sim": "trsr.methods.published:LLM_SEQ_SIM",
        "llm2bert4rec": "trsr.methods.published:LLM2BERT4REC",
        "mllm_msr": "trsr.methods.published:MLLM_MSR",
        "llm_seq_prompt": "trsr.methods.published:LLM_SEQ_PROMPT",
        "od_llm": "trsr.methods.published:OD_LLM",
        "llm2rec": "trsr.methods.published:LLM2REC",
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

    def replaced(self, values: Mapping[str, Any]) -> str:
        """Its settings that a configuration's values replace, as a sentence; empty: none is.

        The rankers of the table are left out: any choice of them is in sight.
        """
        found = [
            f"{name} = {given} (of the method: {own})"
            for name, own, given in _replaced(values, self.config)
            if name != "rank.rankers"
        ]
        return f"the method {self.name} has other settings here: {', '.join(found)}" * bool(found)


def _replaced(
    values: Mapping[str, Any], defaults: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, str, str]]:
    """(the setting, its default, its value), where they differ."""
    for key, default in defaults.items():
        value = values.get(key, default)
        if isinstance(default, Mapping):
            yield from _replaced(value, default, f"{prefix}{key}.")
        elif value != default:
            yield f"{prefix}{key}", json.dumps(default), json.dumps(value)


def _filled(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(values)
    for key, default in defaults.items():
        if key not in found:
            found[key] = _filled({}, default) if isinstance(default, Mapping) else default
        elif isinstance(default, Mapping) and isinstance(found[key], Mapping):
            found[key] = _filled(found[key], default)
    return found
