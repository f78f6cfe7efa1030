"""What the rankers' tests share: no embedding model is loaded."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest


class HashEncoder:
    """A unit vector drawn from the text's hash: equal texts are alike, others are not."""

    identity = "0" * 32

    def __init__(self, name: str = "", progress: object = None) -> None:
        self.texts: list[str] = []

    def encode(self, texts):
        self.texts += texts
        found = []
        for text in texts:
            seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
            vector = np.random.default_rng(seed).normal(size=8)
            found.append(vector / np.linalg.norm(vector))
        return np.array(found, np.float32)


@pytest.fixture(autouse=True)
def no_embedding_model(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("TRSR_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr("trsr.rankers.item_text.SentenceEncoder", HashEncoder)
