"""All settings of a run: their schema, how they are read, and what is wrong with them."""

from trsr.config.loading import (
    check_config,
    find_config,
    load_config,
    read_toml,
    recipes,
    said_of,
)
from trsr.config.schema import Config, RunSettings

__all__ = [
    "Config",
    "RunSettings",
    "check_config",
    "find_config",
    "load_config",
    "read_toml",
    "recipes",
    "said_of",
]
