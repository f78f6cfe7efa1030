"""Scores by endpoints: servers in the documented shapes of vLLM and SGLang, and llama.cpp's own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from chat_endpoint import KEY, Call, Endpoint
from scoring_endpoint import Served
from tiny import adapted, tiny_model_folder

from trsr.errors import ConfigError, ModelError, PromptError
from trsr.models.base import ScoringModel
from trsr.models.cached import cached
from trsr.models.settings import ModelSettings, open_model
from trsr.storage.response_cache import ResponseCache
from trsr.types import Message, Prompt

pytest.importorskip("openai", reason="the extra 'openai' is not installed")

ANSWERS = ("Yes", "No")
LONG_ANSWERS = ("Yes, it is taken", "No", "Nothing else")  # of several tokens
PROMPTS = [
    Prompt((Message("system", "be brief"), Message("user", f"{'sea ' * many}film {item}?")))
    for many in (0, 3, 9)
    for item in ("Ran", "Alien", "a quiet one")
]


@pytest.fixture
def serve(serve):
    """Starts servers that score."""

    def start(*conduct: Any, **faults: Any) -> Endpoint:
        served = conduct[0] if callable(conduct[0]) else Served(*conduct, **faults)
        opened = serve(served)
        opened.served = served
        return opened

    return start


@pytest.fixture(scope="module")
def local(folder, one_thread) -> Any:
    return open_model(ModelSettings(name=str(folder), dtype="float32"))


def scorer_at(folder: Path, endpoint: Endpoint, adapter: Path | None = None, **changes: Any) -> Any:
    values = {"name": str(folder), "scorer": "endpoint", "base_url": endpoint.url, "retries": 3}
    values |= {"key_env": "TRSR_TEST_KEY", "context_tokens": 512}
    return open_model(ModelSettings(**(values | changes)), adapter)


@pytest.mark.parametrize(
    ("shape", "backend"),
    [
        ("vllm", "transformers"),
        ("vllm", "openai"),
        ("old", "transformers"),
        ("texts", "openai"),
        ("sglang", "transformers"),
        ("silent", "openai"),
    ],
)
def test_scores_are_those_of_the_weights(serve, local, folder, shape, backend):
    endpoint = serve({str(folder): local}, shape)
    model = scorer_at(folder, endpoint, backend=backend)
    assert isinstance(model, ScoringModel)
    for answers in (ANSWERS, LONG_ANSWERS):
        expected = local.score(PROMPTS, answers)
        found = model.score(PROMPTS, answers)
        assert found == pytest.approx(expected, abs=2e-4)
        assert np.array_equal(found.argsort(0), expected.argsort(0))
    assert set(endpoint.keys) == {f"Bearer {KEY}"}
    assert KEY not in model.identity
    assert model.count_tokens(PROMPTS[0]) == local.count_tokens(PROMPTS[0])


FAULTS = {
    "constant": ({"constant": True}, "equal scores for different items"),
    "constant, silent": (
        {"shape": "silent", "constant": True},
        "equal scores for different items",
    ),
    "mute": ({"mute": True}, r"gives no log-probabilities: serve the model with vLLM"),
    "cut": ({"keep": 40}, r"read 40 tokens of a prompt of \d+: it cuts prompts"),
    "cut, silent": ({"shape": "silent", "keep": 400}, "differ at their start or end: it cuts them"),
    "template": ({"around": 6}, "puts another chat format around them"),
    "mixing": ({"mixing": 1.0, "slow": 0.05}, r"a prompt among others unlike the same prompt"),
    "vocabulary": ({"vocabulary": 1}, r"has another vocabulary than .*Name in model\.name"),
    "context": ({"context": 100}, r"at most 100 tokens .*context_tokens is 512: lower it to 100"),
    "unlisted": (
        {"shape": "old", "listed": 2, "deaf": True},
        r"of 16 tokens of answers it did not give \d+, .*too many to rank by",
    ),
    "biased": (
        {"shape": "old", "listed": 2, "biased": True},
        r"did not give \d+, .*too many to rank by",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_endpoint_whose_scores_cannot_be_trusted_is_refused_before_the_first(
    serve, local, folder, fault
):
    faults, said = FAULTS[fault]
    faults = {**faults}
    endpoint = serve({str(folder): local}, faults.pop("shape", "vllm"), **faults)
    # the weights are not here: the endpoint is judged by what it says alone
    model = scorer_at(folder, endpoint, backend="openai")
    with pytest.raises(ModelError, match=said):
        model.score(PROMPTS, ANSWERS)
    first = len(endpoint.bodies)
    with pytest.raises(ModelError, match=said):  # and again: no item gets through
        model.score(PROMPTS[:1], ANSWERS)
    assert first < 40


def test_a_server_of_other_weights_is_refused_and_among_several_the_right_one_is_taken(
    serve, local, folder, tmp_path
):
    adapted("llama", torch.float32).save_pretrained(tmp_path / "adapter")
    tuned = open_model(ModelSettings(name=str(folder), dtype="float32"), tmp_path / "adapter")
    other = open_model(
        ModelSettings(name=str(tiny_model_folder(tmp_path / "other", tied=False)), dtype="float32")
    )
    wrong = scorer_at(folder, serve({"base": local, "other": other}), tmp_path / "adapter")
    with pytest.raises(ModelError, match=r"unlike the weights here, .* with the adapter of this"):
        wrong.score(PROMPTS, ANSWERS)
    endpoint = serve({"other": other, "base": local, "tuned": tuned})
    found = scorer_at(folder, endpoint, tmp_path / "adapter").score(PROMPTS, ANSWERS)
    assert found == pytest.approx(tuned.score(PROMPTS, ANSWERS), abs=2e-4)
    assert endpoint.served.used[-1] == "tuned"
    base = scorer_at(folder, endpoint).score(PROMPTS, ANSWERS)
    assert base == pytest.approx(local.score(PROMPTS, ANSWERS), abs=2e-4)
    named = scorer_at(folder, endpoint, extra={"model": "other"})
    with pytest.raises(ModelError, match=r"unlike the weights here.*: other by"):
        named.score(PROMPTS, ANSWERS)


def test_without_the_weights_the_served_name_counts(serve, local, folder):
    endpoint = serve({"somebody/else": local})
    with pytest.raises(ModelError, match=r"serves somebody/else, not .*model\.extra"):
        scorer_at(folder, endpoint, backend="openai").score(PROMPTS, ANSWERS)
    named = scorer_at(folder, endpoint, backend="openai", extra={"model": "somebody/else"})
    assert named.score(PROMPTS[:2], ANSWERS).shape == (2, 2)
    assert endpoint.served.used[-1] == "somebody/else"


def test_nothing_is_paid_twice_and_requests_at_once_are_bounded(serve, local, folder, tmp_path):
    endpoint = serve({"m": local}, slow=0.01)
    with ResponseCache(tmp_path / "responses.sqlite") as store:
        model = cached(scorer_at(folder, endpoint, concurrency=3), store)
        expected = local.score(PROMPTS, ANSWERS)
        assert model.score(PROMPTS[:5], ANSWERS) == pytest.approx(expected[:5], abs=2e-4)
        asked = endpoint.served.scored
        assert model.score(PROMPTS, ANSWERS) == pytest.approx(expected, abs=2e-4)
        assert endpoint.served.scored == asked + len(PROMPTS) - 5
        assert endpoint.most_at_once == 3
        sent = len(endpoint.bodies)
        again = cached(scorer_at(folder, endpoint), store)  # another sitting
        assert again.score(PROMPTS, ANSWERS) == pytest.approx(expected, abs=2e-4)
        assert len(endpoint.bodies) == sent  # all is known: nothing is even probed
        elsewhere = scorer_at(folder, serve({"m": local}))
        assert elsewhere.identity != again.identity
    stored = (tmp_path / "responses.sqlite").read_bytes()
    assert KEY.encode() not in stored


def test_the_weights_here_are_opened_once_for_all_sittings(
    serve, local, folder, tmp_path, monkeypatch
):
    endpoint = serve({"m": local})
    with ResponseCache(tmp_path / "responses.sqlite") as store:
        cached(scorer_at(folder, endpoint), store).score(PROMPTS[:1], ANSWERS)

        def never(*_: Any) -> None:
            raise AssertionError("the weights were opened again")

        monkeypatch.setattr("trsr.models.hf.endpoint.TransformersModel", never)
        found = cached(scorer_at(folder, endpoint), store).score(PROMPTS, ANSWERS)
    assert found == pytest.approx(local.score(PROMPTS, ANSWERS), abs=2e-4)


def test_faults_that_pass_cost_time_alone(serve, local, folder):
    first = (
        lambda call: call.refuse(429, "slow down", Retry_After="0.02"),
        lambda call: call.refuse(500, "out of luck"),
        Call.cut,
        lambda call: call.give({"choices": [{"logprobs": {"tokens": []}}]}),
        lambda call: call.send(200, b"[" * 3000),
    )
    endpoint = serve({"m": local}, first=first)
    model = scorer_at(folder, endpoint)
    found = model.score(PROMPTS, ANSWERS)
    assert found == pytest.approx(local.score(PROMPTS, ANSWERS), abs=2e-4)
    assert model.endpoint.usage.retries == len(first)


@pytest.mark.parametrize(
    ("status", "said"),
    [(400, r"refused \(HTTP 400\): you sent \[key\].*Look at"), (500, "no answer in 4 tries")],
)
def test_what_was_answered_before_a_failure_is_kept(serve, local, folder, tmp_path, status, said):
    served = Served({"m": local})
    broken: list[int] = []

    def conduct(call: Call) -> None:
        if broken and served.scored >= broken[0]:
            call.refuse(status, f"you sent {KEY}")
        else:
            served(call)

    endpoint = serve(conduct)
    with ResponseCache(tmp_path / "responses.sqlite") as store:
        model = cached(scorer_at(folder, endpoint, concurrency=2), store)
        model.score(PROMPTS[:1], ANSWERS)
        before = len(store)
        broken.append(served.scored + 4)
        with pytest.raises(ModelError, match=said) as caught:
            model.score(PROMPTS, ANSWERS)
        assert KEY not in str(caught.value)
        assert len(store) - before == served.scored - broken[0] + 4 >= 4
        known, asked = len(store) - before, served.scored
        broken.clear()
        found = model.score(PROMPTS, ANSWERS)
        assert found == pytest.approx(local.score(PROMPTS, ANSWERS), abs=2e-4)
        assert served.scored - asked == len(PROMPTS) - 1 - known


def test_few_answers_that_are_not_given_are_bounded_counted_and_said(serve, local, folder, caplog):
    served = Served({"m": local}, "old")
    endpoint = serve(served)
    model = scorer_at(folder, endpoint, concurrency=1)
    expected = local.score(PROMPTS, ANSWERS)
    model.score(PROMPTS[:1], ANSWERS)
    model.score(PROMPTS * 5, ANSWERS)  # many that are given
    served.deaf, served.listed = True, 2
    found = model.score(PROMPTS[:2], ANSWERS)
    assert (found >= expected[:2] - 2e-4).all()  # a bound from above
    assert re.search(
        r"of \d+ tokens of answers it did not give [1-4], which were taken", caplog.text
    )


def test_a_prompt_beyond_the_context_and_a_missing_address_are_said(serve, local, folder):
    endpoint = serve({"m": local})
    long = Prompt((Message("user", "sea " * 600),))
    with pytest.raises(PromptError, match=r"is read with at most 512: .*model\.context_tokens"):
        scorer_at(folder, endpoint).score([long], ANSWERS)
    with pytest.raises(ConfigError, match=r"model\.base_url is ''"):
        open_model(ModelSettings(name=str(folder), scorer="endpoint"))


def test_llama_cpps_server_scores_as_the_weights_do(local, folder, tmp_path):
    from trsr.models.openvino.gguf import write_f16

    xllamacpp = pytest.importorskip("xllamacpp", reason="the package xllamacpp is not installed")
    write_f16(folder, tmp_path / "model.gguf", chat=True)
    params = xllamacpp.CommonParams()
    params.model.path = str(tmp_path / "model.gguf")
    params.n_ctx, params.n_parallel, params.port = 1024, 2, 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.warmup, params.verbosity = False, 0
    server = xllamacpp.Server(params)
    model = open_model(
        ModelSettings(
            name=str(folder),
            dtype="float32",
            context_tokens=512,
            scorer="endpoint",
            base_url=f"{server.listening_address}/v1",
            concurrency=2,
            key_env="TRSR_NO_SUCH_KEY",
        )
    )
    answers = (" Yes", " No")  # not among the listed tokens: each is made to be chosen
    found = model.score(PROMPTS[:3], answers)
    assert found == pytest.approx(local.score(PROMPTS[:3], answers), abs=0.05)
    del server
