"""`trsr loadtest` on a small run: its figures and its picture."""

from __future__ import annotations

import json
from contextlib import nullcontext
from xml.etree import ElementTree

import pytest
from served import ended, opened, serving
from typer.testing import CliRunner

from trsr.cli.app import app
from trsr.errors import StoreError
from trsr.progress import Silent
from trsr.serve.loadtest import growth, loadtest, percentile


def test_the_figures_of_a_load_and_their_picture(served_run, tmp_path):
    picture = tmp_path / "load.svg"
    command = ["loadtest", str(served_run), "--seconds", "0.5", "--clients", "4"]
    command += ["--ranker", "item_knn", "--json", "--picture", str(picture)]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    found = json.loads(result.stdout)
    assert found["ranker"] == "item_knn"
    assert [part["clients"] for part in found["parts"]] == [1, 4, 4, 4]
    for part in found["parts"]:
        assert part["errors"] == {}
        assert 0 < part["p50_ms"] <= part["p95_ms"] <= part["p99_ms"]
        assert part["requests"] > 0
    one, many = found["parts"][2:]
    assert many["throughput"] > one["throughput"]
    assert all(0 < part["model_share"] <= 1 for part in found["parts"][:2])
    assert found["requests"] == sum(part["requests"] for part in found["parts"])
    asked = [point["requests"] for point in found["memory"]]
    assert asked == sorted(asked)
    assert asked[-1] == found["requests"]
    assert all(point["bytes"] > 1 << 20 for point in found["memory"])
    words = "".join(ElementTree.fromstring(picture.read_text()).itertext())  # noqa: S314 - our own
    assert all(part["name"] in words for part in found["parts"])


def test_percentiles_are_values_that_were_seen():
    values = [float(n) for n in range(1, 101)]
    assert [percentile(values, share) for share in (50, 95, 99)] == [50, 95, 99]
    assert percentile([7.0], 50) == percentile([7.0], 99) == 7
    assert percentile([], 50) is None


def test_memory_is_compared_after_100_and_10_000_requests():
    sizes = {40: 80, 100: 200, 316: 230, 10_000: 220, 31_623: 300}
    memory = [{"requests": requests, "bytes": size} for requests, size in sizes.items()]
    assert growth(memory) == 1.1
    assert growth(memory[:3]) == 1.15
    assert growth(memory[:1]) is None


def test_no_more_requests_are_sent_than_asked_for(served_run, tmp_path, monkeypatch):
    service = opened(served_run, tmp_path / "state.sqlite", ranker="item_knn")
    with serving(service) as address:
        port = int(address.rstrip("/").rpartition(":")[2])
        monkeypatch.setattr("trsr.serve.loadtest.serving", lambda *_: nullcontext(port))
        options = {"seconds": 0.4, "clients": 4, "ranker": "item_knn", "database": ""}
        found = loadtest(served_run, **options, rate=10, progress=Silent())
    ended(service)
    assert all(part["requests"] <= 4 for part in found["parts"])


def test_a_service_that_does_not_start_is_said_with_its_reason(served_run):
    options = {"seconds": 0.5, "clients": 1, "rate": 0, "database": "", "progress": Silent()}
    with pytest.raises(StoreError, match="did not start: error: there is no ranker 'nobody'"):
        loadtest(served_run, ranker="nobody", **options)
