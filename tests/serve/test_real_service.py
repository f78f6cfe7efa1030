"""The service with a local model: shared passes and kept prefixes change no ranking."""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from served import ended, event, opened, small_run

from trsr.recommender import Recommender
from trsr.serve.schemas import RecommendRequest
from trsr.types import Interaction, Query, Summary, UserHistory

LOCAL = (
    "model.backend=transformers",
    "model.dtype=float32",
    "summarize.model.backend=scripted",
    "summarize.model.name=scripted",
    "data.test_cases=1",
    "data.negatives=1",
)
NEAR = 2e-3
"""Of log-odds in fp32: sums in another order."""


@pytest.mark.parametrize(
    ("name", "scorer"),
    [pytest.param("smollm2-135m", "torch", marks=pytest.mark.real), ("tiny", "openvino")],
)
def test_shared_passes_and_kept_prefixes_give_the_runs_own_scores(
    tmp_path, tiny_model, name, scorer
) -> None:
    if scorer == "openvino":
        pytest.importorskip("openvino")
        name = tiny_model
    own = (f"model.name={name}", f"model.scorer={scorer}", "model.context_tokens=1024")
    run = small_run(tmp_path / "run", settings=(*LOCAL, *own))
    service = opened(run, tmp_path / "state.sqlite", cache_mb=64, deadline=600)
    draw = random.Random(1)
    catalog = service.recommender.catalog
    for user in range(4):
        service.add_events([event(f"u{user}", n, n) for n in draw.sample(range(30), 5 + user)])
    while not service.summaries.idle:
        time.sleep(0.01)
    requests = [
        RecommendRequest(user=f"u{n % 4}", candidates=[f"p{i}" for i in draw.sample(range(30), 4)])
        for n in range(5)
    ]
    with ThreadPoolExecutor(5) as pool:
        together = list(pool.map(service.recommend, requests))
    (model,) = service.recommender.opened()
    assert model.counts.passes < len(requests)
    assert 0 < model.inner.prefix_cache.tokens <= model.inner.prefix_cache.budget
    again = [service.recommend(one) for one in requests]  # behind kept prefixes
    model.inner.forget()
    alone = []
    for request, found in zip(requests, together, strict=True):
        met = tuple(
            Interaction(catalog[one.item], one.time) for one in service.store.history(request.user)
        )
        summary = Summary(request.user, found.summary.text, found.summary.covers)
        items = tuple(map(catalog.__getitem__, request.candidates))
        alone.append(Query(f"q{len(alone)}", UserHistory(request.user, met), items, summary))
    expected = list(Recommender.load(run, "llm_zero_shot").rank(alone))
    for one, kept, own in zip(together, again, expected, strict=True):
        scores = {entry.item: entry.score for entry in own.entries}
        for found in (one, kept):
            assert {e.item: e.score for e in found.items} == pytest.approx(scores, abs=NEAR)
    ended(service)
