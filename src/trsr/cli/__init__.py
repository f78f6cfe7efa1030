"""The command line: parsing, progress bars, one-line errors, exit codes."""

from __future__ import annotations

import sys


def main() -> None:
    """Runs the command line; exits with 0, with 2 for what people can mend, 130 when stopped."""
    from trsr.cli.app import app
    from trsr.cli.memory import keep_freed_memory
    from trsr.cli.terminal import complain
    from trsr.errors import TrsrError

    keep_freed_memory()
    try:
        app()
    except TrsrError as error:
        complain(str(error))
        sys.exit(2)
    except OSError as error:
        name = f"{error.filename}: " if error.filename else ""
        complain(f"{name}{error.strerror or error}")
        sys.exit(2)
    except KeyboardInterrupt:
        complain("stopped; the same command goes on where it was")
        sys.exit(130)
