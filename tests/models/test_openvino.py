"""The openvino backend: the same texts as transformers' in fp32, through the pull feed."""

from __future__ import annotations

import gc
import importlib.util
import itertools
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from chains import answered_in_turn
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_model_folder

from trsr import machine
from trsr.errors import ConfigError, ModelError, PromptError
from trsr.models.base import LanguageModel, Sampling, ScoringModel
from trsr.models.settings import ModelSettings, open_model
from trsr.types import Message, Prompt

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("openvino_genai") is None,
    reason="the extra 'openvino' is not installed",
)


@pytest.fixture(scope="module", params=["tied", "untied"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama whose weights F16 holds exactly, so that fp32 and F16 texts must agree."""
    from safetensors.torch import load_file, save_file

    made = tmp_path_factory.mktemp(request.param) / "tiny"
    tiny_model_folder(made, tied=request.param == "tied")
    weights = load_file(made / "model.safetensors")
    exact = {name: tensor.half().float() for name, tensor in weights.items()}
    save_file(exact, made / "model.safetensors", metadata={"format": "pt"})
    return made


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("TRSR_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    return open_at(folder)


def open_at(folder: Path, backend: str = "openvino", **changes: Any) -> Any:
    values = {"backend": backend, "name": str(folder), "dtype": "float32", "device": "cpu"}
    return open_model(
        ModelSettings(**(values | {"batch_size": 4, "context_tokens": 512} | changes))
    )


def prompts(count: int = 9) -> list[Prompt]:
    """Some share a stem, some have a begun answer."""
    begun = Message("assistant", "The user likes")
    return [
        Prompt(
            (
                Message("system", "Summarize what the user watched."),
                Message("user", f"Title: steel bolts {n} Genres: {'sea ' * n}"),
                *([begun] if n % 2 else []),
            )
        )
        for n in range(count)
    ]


def test_greedy_texts_are_those_of_transformers_in_fp32(model: Any, folder: Path) -> None:
    sampling = Sampling(max_tokens=24)
    reference = open_at(folder, "transformers")
    asked = prompts()
    assert [model.count_tokens(p) for p in asked] == [reference.count_tokens(p) for p in asked]
    expected = dict(reference.generate(asked, sampling))
    got = list(model.generate(asked, sampling))
    assert sorted(index for index, _ in got) == list(range(len(asked)))
    assert dict(got) == expected
    assert len(set(expected.values())) > 3  # the model says different things


def test_it_generates_and_does_not_score(model: Any) -> None:
    assert isinstance(model, LanguageModel)
    assert not isinstance(model, ScoringModel)


def test_chains_of_prompts_run_through_the_pull_feed(model: Any) -> None:
    def write(said: str) -> Prompt:
        user, _, text = said.partition(": ")
        return Prompt((Message("user", user), Message("assistant", text)))

    first, own = [f"user {n}: start" for n in range(5)], Sampling(max_tokens=5)
    alone = [answered_in_turn(model, [one], write, 3, own) for one in first]
    assert [[one] for one in answered_in_turn(model, first, write, 3, own)] == alone


@given(st.lists(st.integers(0, 3), max_size=40), st.integers(1, 4))
def test_an_answer_ends_exactly_where_a_run_would_occur_twice(tokens: list[int], size: int) -> None:
    from trsr.models.openvino.model import _Request, _write

    request = _Request(0, None, (), [], 0)
    kept = list(itertools.takewhile(lambda token: _write(request, token, size), tokens))
    assert request.answer == kept

    def repeats(answer: list[int]) -> bool:
        runs = [tuple(answer[n : n + size]) for n in range(len(answer) - size + 1)]
        return len(runs) > len(set(runs))

    assert not repeats(kept)
    assert len(kept) == len(tokens) or repeats(tokens[: len(kept) + 1])


def test_texts_end_early_where_no_run_may_occur_twice(model: Any) -> None:
    free = dict(model.generate(prompts(), Sampling(max_tokens=60)))
    bound = dict(model.generate(prompts(), Sampling(max_tokens=60, no_repeat_ngram=2)))
    cut = 0
    for index, text in bound.items():
        assert free[index].startswith(text)
        cut += len(text) < len(free[index])
    assert cut > 0


def test_texts_that_end_early_leave_nothing_behind(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """OpenVINO tells on standard output of blocks of its cache that were never given back."""
    own = open_at(folder, "openvino")
    texts = dict(own.generate(prompts(), Sampling(max_tokens=60, no_repeat_ngram=2)))
    assert len(texts) == len(prompts())
    del own
    gc.collect()
    told = capfd.readouterr()
    assert "leaked" not in told.out + told.err


def test_drawn_texts_follow_their_seed(model: Any) -> None:
    def draw(seed: int) -> dict[int, str]:
        return dict(model.generate(prompts(), Sampling(max_tokens=12, temperature=1.5, seed=seed)))

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)
    sampling = Sampling(max_tokens=12, temperature=1.5, seed=1)
    ((_, alone),) = model.generate([prompts()[3]], sampling)
    assert alone == draw(1)[3]
    ((_, again),) = model.generate([replace(prompts()[3], draw=1)], sampling)
    assert again != alone


def test_a_caller_that_stops_reading_leaves_the_model_usable(model: Any) -> None:
    sampling = Sampling(max_tokens=24)
    expected = dict(model.generate(prompts(4), sampling))
    answers = model.generate(prompts(9), sampling)
    next(answers)
    answers.close()
    assert dict(model.generate(prompts(4), sampling)) == expected


def test_a_prompt_without_room_for_its_answer_is_refused(model: Any) -> None:
    long = Prompt((Message("user", "sea " * 2000),))
    with pytest.raises(PromptError, match="at most 512"):
        list(model.generate([*prompts(2), long], Sampling(max_tokens=5)))
    assert len(list(model.generate(prompts(2), Sampling(max_tokens=5)))) == 2


def test_the_gguf_is_written_once(model: Any, folder: Path, cache: Path) -> None:
    files = {path: path.stat().st_mtime_ns for path in (cache / "openvino").glob("*.gguf")}
    again = open_at(folder, batch_size=2)
    assert again.identity == model.identity
    assert files == {path: path.stat().st_mtime_ns for path in (cache / "openvino").glob("*.gguf")}
    assert open_at(folder, dtype="auto").identity != model.identity


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"device": "cuda"}, "runs on the CPU here"), ({"quantize": "8bit"}, "model.quantize")],
)
def test_settings_it_cannot_follow_are_config_errors(
    tmp_path: Path, changes: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        open_at(tmp_path, **changes)


def test_an_adapter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="takes no adapter"):
        open_model(ModelSettings(backend="openvino"), tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architectures": ["Qwen2ForCausalLM"]}, "not a LlamaForCausalLM"),
        ({"rope_parameters": {"rope_type": "llama3"}}, "positions are scaled"),
        ({"attention_bias": True}, "have biases"),
    ],
)
def test_a_checkpoint_that_gguf_cannot_hold_is_refused_in_words(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    from trsr.models.openvino.gguf import write_f16

    folder = tiny_model_folder(tmp_path / "tiny")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ModelError, match=f"{message}.*transformers backend"):
        write_f16(folder, tmp_path / "model.gguf")
    assert not list(tmp_path.glob("*.gguf*"))


@pytest.mark.parametrize(
    ("cores", "flags", "fits"), [(1, "avx2 amx_tile", False), (1, "avx2", True)]
)
def test_one_core_with_amx_is_refused_in_words(
    folder: Path, monkeypatch: pytest.MonkeyPatch, cores: int, flags: str, fits: bool
) -> None:
    monkeypatch.setattr(machine, "cores", lambda: cores)
    monkeypatch.setattr(machine, "cpuinfo", lambda key: flags)
    settings = ModelSettings(name=str(folder), backend="openvino", dtype="float32")
    if fits:
        open_model(settings)
        return
    with pytest.raises(ModelError, match=r"one core .* with AMX: give it two, or set"):
        open_model(settings)


def test_without_the_package_the_error_says_what_to_install(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino_genai", None)
    with pytest.raises(ModelError, match=r"pip install 'trsr\[local,openvino\]'"):
        open_at(folder)
