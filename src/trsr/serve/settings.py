"""The settings of the live service, given as options of `trsr serve`."""

from __future__ import annotations

import ipaddress
from pathlib import Path

from pydantic import Field

from trsr.settings import Settings
from trsr.storage import files
from trsr.storage.remote_run import is_copy, lasting

OPEN_RATE = 100.0
"""Requests a second of one client where `rate` is 0 and the service is reached from outside."""


class ServeSettings(Settings):
    """How the service listens, what it keeps, and its limits."""

    host: str = Field("127.0.0.1", description="the address to listen on; off loopback needs keys")
    port: int = Field(8000, ge=0, le=65535, description="the port; 0: any free one")
    database: str = Field(
        "", description="URL of the database (postgresql://…); default: serve.sqlite in the run"
    )
    ranker: str = Field("", description="which one ranks; default: the last of rank.rankers")
    rate: float = Field(
        0,
        ge=0,
        description="requests a second of one key or address; 0: no limit on loopback, 100 off it",
    )
    max_body: int = Field(1 << 20, ge=1024, description="most bytes of a request's body")
    queue: int = Field(64, ge=1, description="recommendations that may wait; more get 429")
    batch_tokens: int = Field(2048, ge=256, description="most prompt tokens of one model pass")
    deadline: float = Field(30.0, gt=0, description="seconds until a waiting request gets 503")
    cache_mb: int = Field(512, ge=0, description="megabytes for prefixes of returning users")

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the service."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def allowed_rate(self) -> float:
        """Requests a second of one client; 0: no limit."""
        return self.rate or (0.0 if self.loopback else OPEN_RATE)

    def file(self, run: Path) -> Path | None:
        """The file of the state, where it is one."""
        if self.database:
            kind, _, name = self.database.partition(":///")
            return Path(name) if kind == "sqlite" else None
        return lasting("serve.sqlite", run) if is_copy(run) else run / "serve.sqlite"

    def url(self, run: Path) -> str:
        """The database's URL."""
        return self.database or f"sqlite:///{Path(files.absolute(self.file(run) or run))}"
