"""A local model through OpenVINO: generates texts fast on CPUs, gives no scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from trsr import hub, machine
from trsr.errors import ConfigError, ModelError, PromptError
from trsr.models.base import Feed, FeedReader, Sampling
from trsr.models.chat_format import ChatFormat, FormattedModel
from trsr.models.openvino.gguf import write_f16
from trsr.models.settings import ModelSettings
from trsr.models.thinking import MissingTexts
from trsr.models.weights import local_weights
from trsr.settings import derive_seed, digest
from trsr.storage import files
from trsr.types import Prompt

_PRECISIONS = {"auto": "", "float32": "f32", "bfloat16": "bf16", "float16": "f16"}


def open_model(settings: ModelSettings, adapter: Path | None = None) -> OpenVINOModel:
    """Opens a model for generating: an embedded name, a Llama checkpoint, or an exported folder.

    Raises:
        ConfigError: If an adapter is given, or settings that OpenVINO cannot follow.
        ModelError: If the packages are missing, the model cannot be loaded, or it could not run on
            the one core that it is given.
    """
    if adapter is not None:
        raise ConfigError(
            "model.backend: openvino generates only and takes no adapter: use the transformers "
            "backend to rank with what was trained"
        )
    if settings.quantize != "none":
        raise ConfigError("model.quantize: openvino takes F16 weights: set it to none")
    if settings.device not in ("auto", "cpu"):
        raise ConfigError(
            f"model.device: openvino runs on the CPU here, not on {settings.device}: "
            "use auto or cpu, or the transformers backend"
        )
    return OpenVINOModel(settings)


@dataclass(eq=False)
class _Request:
    """One prompt that the pipeline is answering.

    Attributes:
        position: The prompt's position in the feed.
        handle: The pipeline's.
        prompt: Its tokens.
        answer: The answer so far, as begun and as generated.
        begun: How many tokens of the answer were begun.
        opened: The mark with which the prompt itself opens the model's thinking.
        runs: The runs of tokens that the answer holds, where none may occur twice.
    """

    position: int
    handle: Any
    prompt: Sequence[int]
    answer: list[int]
    begun: int
    opened: str = ""
    runs: set[tuple[int, ...]] = field(default_factory=set)


class OpenVINOModel(FormattedModel):
    """A `LanguageModel` on openvino-genai's continuous batching.

    It gets the same tokens as the transformers backend; shared prefixes are computed once. Two
    settings of `Sampling` differ: the repetition penalty counts the prompt's tokens too, and a
    text ends before a second run of `no_repeat_ngram` tokens, as OpenVINO cannot forbid a token.
    The KV cache has 8 bits where dtype is auto, else the chosen format.

    Raises:
        ModelError: If the packages are missing or the model cannot be loaded.
    """

    def __init__(self, settings: ModelSettings) -> None:
        if machine.cores() == 1 and "amx_tile" in machine.cpuinfo("flags").split():
            # seen of openvino-genai 2026.4.1: the process ends without a word
            raise ModelError(
                "openvino's generation ends the process where it is given one core of a processor "
                "with AMX: give it two, or set summarize.model.backend (or model.backend) to "
                "transformers"
            )
        self.settings = settings
        folder = local_weights(settings.name, revision=settings.revision)
        from trsr.models.hf import load  # torch, which reading settings must not need

        self.chat_format = ChatFormat(
            load.load_tokenizer(folder), settings.name, "openvino", settings.special_tokens
        )
        self._config = files.read_json(folder / "config.json")
        own = int(self._config.get("max_position_embeddings", settings.context_tokens))
        self._context_tokens = min(settings.context_tokens, own)
        self._stops = _stop_tokens(folder, self._config, self.chat_format)
        self._identity = load.identity(settings, folder, None, f"openvino {settings.dtype}")
        self._identity += settings.special_name
        self._pipeline = self._load(folder)
        self._sent = 0

    def generate(self, prompts: Feed, sampling: Sampling) -> Iterator[tuple[int, str]]:
        """Yields (position, text), each as soon as it is finished.

        Raises:
            ModelError: If OpenVINO fails.
            PromptError: If a prompt leaves no room for its answer.
        """
        feed = FeedReader(prompts)
        going: list[_Request] = []
        missing = MissingTexts()
        try:
            while True:
                while len(going) < self.settings.batch_size and (entry := feed.take()):
                    going.append(self._send(*entry, sampling))
                if not going:
                    break
                self._step()
                done = [request for request in going if self._read(request, sampling)]
                going = [request for request in going if request not in done]
                for request in done:
                    text = request.opened + self._text(request)
                    yield request.position, missing.text(text, sampling.max_tokens)
        finally:
            self._drop(going)
            missing.log("name a model that does not think")
        feed.check_ended()

    def _load(self, folder: Path) -> Any:
        try:
            import openvino_genai as genai
        except ImportError as error:
            raise ModelError(
                "the openvino backend needs openvino-genai: pip install 'trsr[local,openvino]'"
            ) from error
        scheduler = genai.SchedulerConfig()
        scheduler.enable_prefix_caching = True
        scheduler.max_num_seqs = self.settings.batch_size
        scheduler.max_num_batched_tokens = max(1024, self.settings.batch_size)
        scheduler.cache_size = self._cache_gigabytes()
        precision = _PRECISIONS[self.settings.dtype]
        properties: dict[str, Any] = (
            {"INFERENCE_PRECISION_HINT": precision, "KV_CACHE_PRECISION": precision}
            if precision
            else {}
        )
        source = folder if files.is_file(folder / "openvino_model.xml") else self._converted(folder)
        try:
            return genai.ContinuousBatchingPipeline(str(source), scheduler, "CPU", properties, {})
        except RuntimeError as error:
            raise ModelError(f"openvino cannot load {source}: {error}") from error

    def _converted(self, folder: Path) -> Path:
        """The checkpoint as an F16 GGUF file, written once (Q4_1 and Q8_0 degrade there)."""
        root = hub.cache_folder() / "openvino"
        path = root / f"{digest(self._identity)}.gguf"
        try:
            files.make_folder(root)
            with FileLock(path.with_suffix(".lock")):
                if not files.exists(path):
                    write_f16(folder, path)
        except OSError as error:
            raise ModelError(
                f"{self.settings.name} cannot be made ready in {root} ({error}): free some space "
                "or make the folder writable, or set TRSR_CACHE to another folder, and run again"
            ) from error
        return path

    def _cache_gigabytes(self) -> int:
        """Room for the keys and values of a full batch, in F32 if so asked, and a half more."""
        heads = int(self._config["num_attention_heads"])
        size = int(self._config.get("head_dim") or self._config["hidden_size"] // heads)
        key_heads = int(self._config.get("num_key_value_heads") or heads)
        width = 4 if self.settings.dtype == "float32" else 2
        token = 2 * int(self._config["num_hidden_layers"]) * key_heads * size * width
        batch = self.settings.batch_size * self._context_tokens
        return max(1, round(1.5 * token * batch / 2**30))

    def _send(self, position: int, prompt: Prompt, sampling: Sampling) -> _Request:
        import openvino

        tokens = self.chat_format.encode(prompt)
        if len(tokens) + sampling.max_tokens > self.context_tokens:
            raise PromptError(
                f"prompt {position} has {len(tokens)} tokens and its answer may have "
                f"{sampling.max_tokens}, but {self.settings.name} is read with at most "
                f"{self.context_tokens}: shorten the prompt or raise model.context_tokens"
            )
        self._sent += 1
        handle = self._pipeline.add_request(
            self._sent,
            openvino.Tensor(np.array([tokens], dtype=np.int64)),
            self._generation(prompt, sampling),
        )
        begun = self.chat_format.turns(prompt)[-1]
        request = _Request(
            position, handle, tokens, [], len(begun), self.chat_format.opened(prompt)
        )
        for token in begun:
            _write(request, token, sampling.no_repeat_ngram)
        request.answer[:] = begun  # all of it, even where it repeats itself
        return request

    def _generation(self, prompt: Prompt, sampling: Sampling) -> Any:
        import openvino_genai as genai

        config = genai.GenerationConfig()
        config.apply_chat_template = False
        config.max_new_tokens = sampling.max_tokens
        config.stop_token_ids = set(self._stops)
        config.repetition_penalty = sampling.repetition_penalty
        config.do_sample = sampling.temperature > 0
        if config.do_sample:
            config.temperature = sampling.temperature
            config.top_p = sampling.top_p
            config.rng_seed = derive_seed(sampling.seed, *prompt.seed_parts) % 2**31
        return config

    def _step(self) -> None:
        try:
            self._pipeline.step()
        except RuntimeError as error:
            raise ModelError(f"openvino failed while generating: {error}") from error

    def _read(self, request: _Request, sampling: Sampling) -> bool:
        """Takes the new tokens; whether the text is finished."""
        status = request.handle.get_status().name  # before reading: tokens may come in between
        while request.handle.can_read():
            for output in request.handle.read().values():
                for token in output.generated_ids:
                    if token in self._stops or not _write(request, token, sampling.no_repeat_ngram):
                        request.handle.cancel()
                        return True
        stop = self.chat_format.stop
        if stop and stop in self._decoded(request):
            request.handle.cancel()
            return True
        if status == "IGNORED":
            raise ModelError(
                "openvino has no room for a prompt's keys and values: lower model.context_tokens"
            )
        return bool(status != "RUNNING")

    def _decoded(self, request: _Request) -> str:
        return self.chat_format.decode(request.prompt, request.answer[request.begun :])

    def _text(self, request: _Request) -> str:
        text = self._decoded(request)
        return text.partition(self.chat_format.stop)[0] if self.chat_format.stop else text

    def _drop(self, going: list[_Request]) -> None:
        """Cancels unfinished requests; the next step frees their cache blocks."""
        for request in going:
            request.handle.cancel()
        if self._pipeline.has_non_finished_requests():
            self._step()


def _write(request: _Request, token: int, size: int) -> bool:
    """Adds a token to the answer; False when it would end a run of `size` that is there already."""
    if size:
        run = (*request.answer[len(request.answer) - size + 1 :], token) if size > 1 else (token,)
        if len(run) == size:
            if run in request.runs:
                return False
            request.runs.add(run)
    request.answer.append(token)
    return True


def _stop_tokens(folder: Path, config: dict[str, Any], chat_format: ChatFormat) -> frozenset[int]:
    """The tokens that end a text: the tokenizer's, and all that the model's own settings name."""
    named = [config.get("eos_token_id"), chat_format.tokenizer.eos_token_id]
    path = folder / "generation_config.json"
    if files.is_file(path):
        named.append(files.read_json(path).get("eos_token_id"))
    every = [token for one in named for token in (one if isinstance(one, list) else [one])]
    return frozenset(token for token in every if token is not None)
