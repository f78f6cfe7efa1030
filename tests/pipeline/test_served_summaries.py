"""A run whose summaries come from an endpoint: what it cost is written down."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from chat_endpoint import Endpoint

from trsr import load_config, run_prepare, run_summarize
from trsr.storage.run_directory import RunDirectory


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    made = Endpoint(lambda call: call.answer("steel and copper"))
    yield made
    made.close()


def test_the_manifest_says_what_an_endpoint_was_asked(small_run, tmp_path, endpoint) -> None:
    pytest.importorskip("openai")
    config = load_config(
        small_run(tmp_path),
        [
            f"run.folder={tmp_path / 'run'}",
            "summarize.model.backend=openai",
            "summarize.model.name=any",
            f"summarize.model.base_url={endpoint.url}",
            "summarize.model.price_in=2.0",
        ],
    )
    run_prepare(config)
    run_summarize(config)
    info = RunDirectory(tmp_path / "run").records()["summarize"].info
    assert info["usage"]["requests"] == info["asked"] == len(endpoint.bodies) > 0
    assert info["usage"]["prompt_tokens"] > 0
    assert info["usage"]["cost"] == pytest.approx(2e-6 * info["usage"]["prompt_tokens"])
