"""A trained run whose scores llama.cpp's server computes: export, serve, run, recommend, serve."""

from __future__ import annotations

import contextlib
import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import polars as pl
import pytest

from trsr.config import load_config
from trsr.export import export
from trsr.pipeline import run
from trsr.recommender import Recommender
from trsr.serve.schemas import RecommendRequest
from trsr.serve.service import Service
from trsr.serve.settings import ServeSettings
from trsr.serve.store import Store

pytest.importorskip("openai", reason="the extra 'openai' is not installed")
NEAR = 0.05
"""Of margins: the server's weights have 16 bits."""


@pytest.fixture(scope="module")
def llama_cpp(trained_run, tmp_path_factory):
    """The address of llama.cpp's server with the run's tuned model."""
    xllamacpp = pytest.importorskip("xllamacpp", reason="the package xllamacpp is not installed")
    out = tmp_path_factory.mktemp("export") / "gguf"
    export(trained_run, "gguf", out, queries=0)
    params = xllamacpp.CommonParams()
    params.model.path = str(out / "model.gguf")
    params.n_ctx, params.n_parallel, params.port = 4096, 4, 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.warmup, params.verbosity = False, 0
    server = xllamacpp.Server(params)
    yield f"{server.listening_address}/v1"
    del server


@pytest.fixture(scope="module")
def served(trained_run, llama_cpp, tmp_path_factory):
    """A copy of the run, ranked again by the server."""
    folder = tmp_path_factory.mktemp("served") / "run"
    shutil.copytree(trained_run, folder)
    settings = ["model.scorer=endpoint", f"model.base_url={llama_cpp}", f"run.folder={folder}"]
    with contextlib.chdir(trained_run.parents[1]):
        list(run(load_config("mine.toml", settings)))
    old, new = made(trained_run), made(folder)
    assert {name for name in new if new[name] != old[name]} == {"rank"}  # nothing is trained again
    return folder


def made(folder):
    stages = json.loads((folder / "manifest.json").read_text())["stages"]
    return {name: one["settings"] for name, one in stages.items()}


def scores(folder):
    table = pl.read_parquet(folder / "rankings.parquet").filter(pl.col("ranker") == "llm")
    return {
        row["query"]: dict(zip(row["items"], row["scores"], strict=True))
        for row in table.rows(named=True)
    }


def test_a_run_ranks_by_the_server_as_by_its_own_weights(trained_run, served):
    local, found = scores(trained_run), scores(served)
    assert found.keys() == local.keys()
    for query, own in local.items():
        assert found[query] == pytest.approx(own, abs=NEAR)
        assert found[query] != own  # it was the server


def test_recommend_and_the_service_ask_the_server(served, tmp_path):
    recommender = Recommender.load(served, "llm")
    user = recommender.dataset.interactions["user"][0]
    assert len(recommender.recommend(user, k=5)) == 5
    service = Service(
        served, Store(f"sqlite:///{tmp_path / 's.sqlite'}"), ServeSettings(deadline=300)
    )
    asked = RecommendRequest(user=user, summary="tea", candidates=[f"p{n}" for n in range(6)])
    try:
        with ThreadPoolExecutor(4) as pool:
            lists = list(pool.map(service.recommend, [asked] * 4))
        (model,) = service.recommender.opened()
        assert model.inner.endpoint.usage.requests > 5
        scores = [{one.item: one.score for one in found.items} for found in lists]
        for other in scores[1:]:  # the server sums in another order beside other requests
            assert other == pytest.approx(scores[0], abs=0.05)
    finally:
        service.close()
        service.store.close()
