"""An S3 server for this folder's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from s3_server import S3Server


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    server = S3Server()
    yield server
    server.stop()


@pytest.fixture
def bucket(s3_server, monkeypatch, tmp_path):
    """A new bucket; this process is led to it, and keeps its copies in a folder of the test's."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TRSR_CACHE", str(tmp_path / "machine-a"))
    return s3_server.fresh()
