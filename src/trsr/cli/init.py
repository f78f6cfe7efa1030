"""`trsr init`: a configuration guessed from the files."""

from __future__ import annotations

import os
from pathlib import Path

from trsr.config.start import HEAD, first_settings
from trsr.data import guess
from trsr.errors import ConfigError
from trsr.storage import files


def write_config(
    interactions: Path, items: Path | None, output: Path | None, force: bool
) -> tuple[Path, list[str]]:
    """Writes a configuration for a file of interactions and one of items, or for one that is both.

    Returns:
        The file written, and what was guessed and why, a line each.

    Raises:
        ConfigError: If the file exists and `force` is not set.
        DataError: If the files cannot be read, or a column cannot be guessed.
    """
    found = guess(interactions, items)
    path = output or Path(f"{interactions.name.split('.')[0]}.toml")
    if files.exists(path) and not force:
        raise ConfigError(f"{path} exists; give another name with --output, or --force")
    given = {"interactions": interactions} | ({"items": items} if items is not None else {})
    paths = {key: os.path.relpath(file, path.parent) for key, file in given.items()}
    text = f"# trsr run {path}\n{HEAD}\n{first_settings(found, paths)}"
    files.write_text(path, text, private=False)
    return path, found.reasons
