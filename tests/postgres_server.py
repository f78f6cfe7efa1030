"""A PostgreSQL server of the tests' own: private, on a Unix socket, gone afterwards."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import uuid
from pathlib import Path

import pytest


class PostgresServer:
    """A cluster in a folder of its own; databases by `fresh`."""

    def __init__(self) -> None:
        self._bin = _binaries()
        self._root = Path(tempfile.mkdtemp(prefix="trsr-pg-"))
        self.folder = self._root / "data"
        # the server refuses to run as root
        self._user = {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}
        if self._user:
            shutil.chown(self._root, "postgres", "postgres")
        self._call("initdb", "-U", "postgres", "-A", "trust", "-N", "-E", "UTF8", "--locale=C")
        self.start()

    def start(self) -> None:
        options = f"-c listen_addresses='' -k {self._root} -F"
        self._call("pg_ctl", "-w", "-o", options, "-l", str(self._root / "log"), "start")

    def stop(self) -> None:
        self._call("pg_ctl", "-w", "-m", "immediate", "stop")

    def fresh(self) -> str:
        """A new database's URL."""
        import psycopg

        name = f"t{uuid.uuid4().hex[:12]}"
        with psycopg.connect(f"host={self._root} user=postgres", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return f"postgresql://postgres@/{name}?host={self._root}"

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self._root)

    def _call(self, program: str, *arguments: str) -> None:
        command = [self._bin / program, "-D", self.folder, *arguments]
        # no pipe: the server would keep it open
        with (self._root / "calls").open("ab") as log:
            done = subprocess.run(
                command, stdout=log, stderr=log, cwd=self._root, timeout=60, **self._user
            )
        assert not done.returncode, (self._root / "calls").read_text()


def _binaries() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    on_path = shutil.which("initdb")
    if not found and not on_path:
        pytest.skip("PostgreSQL's server is not installed (Debian: postgresql); `make system`")
    return (found[-1] if found else Path(on_path)).parent
