"""The settings of a language model, and the table of backends."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from trsr.registry import PluginTable
from trsr.settings import Settings

_log = logging.getLogger(__name__)

BACKENDS = PluginTable(
    "model backend",
    "trsr.models",
    {
        "transformers": "trsr.models.hf.model:open_model",
        "openvino": "trsr.models.openvino.model:open_model",
        "openai": "trsr.models.openai:open_model",
        "scripted": "trsr.models.scripted:open_model",
    },
)


IMAGE_TOKENS = 256
"""The default: enough to name what a picture shows."""

SPEED_ONLY = frozenset(
    {"batch_size", "batch_tokens", "key_env"}
    | {"concurrency", "timeout", "retries", "price_in", "price_out"}
)
"""Settings that change how fast or dear a model's answers come, not which answers."""


def _secret_in(base_url: str) -> str:
    """What is wrong with an address that may hold a key; empty where nothing is."""
    if "@" in base_url:
        return f"holds a user name or password: {_ADVICE}"
    if any(sign in base_url for sign in "?#;"):
        return f"holds a query (?, # or ;), which is written into files and reports: {_ADVICE}"
    return ""


def _names_in(value: Any) -> Iterator[str]:
    """The names of all fields, also of those within others."""
    if isinstance(value, dict):
        for name, one in value.items():
            yield str(name)
            yield from _names_in(one)
    elif isinstance(value, list):
        for one in value:
            yield from _names_in(one)


def _secret(why: str) -> PydanticCustomError:
    """An error that does not repeat what was given."""
    return PydanticCustomError("secret", "{why}", {"why": why})


_ADVICE = "put the key into the environment variable that model.key_env names"
_SECRETS = (
    r"api_?key|^key$|^(auth_?)?token$|^auth$|secret|password|authorization|bearer|access_token"
    r"|headers"
)
"""In names of further fields that hold a key."""


class ModelSettings(Settings):
    """One language model."""

    backend: str = Field("transformers", description="what runs the model: see `trsr ls models`")
    name: str = Field(
        "smollm2-135m",
        description="an embedded model's name (see `trsr get`), a folder, a hub id, or the name "
        "that an endpoint knows",
    )
    revision: str | None = Field(None, description="the hub revision to pin")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="number format of the weights; auto is bfloat16 where it is fast"
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="where it runs")
    quantize: Literal["none", "8bit", "4bit"] = Field(
        "none",
        description="transformers: load the weights in fewer bits; needs bitsandbytes and a GPU. "
        "With scorer = openvino on a CPU the compiled layers have them",
    )
    context_tokens: int = Field(
        2048, ge=64, description="most tokens of prompt and answer; bounded by the model's own"
    )
    batch_size: int = Field(16, ge=1, description="prompts generated side by side")
    batch_tokens: int = Field(
        8192, ge=64, description="most tokens in one forward pass when scoring and training"
    )
    scorer: Literal["auto", "torch", "openvino", "endpoint"] = Field(
        "torch",
        description="what computes scores when candidates are ranked; openvino: faster, on a CPU "
        "and for Llama, Mistral and Qwen models; auto: openvino where it is installed and can "
        "take the model, else torch; endpoint: the server at base_url (docs/scale.md). Training "
        "and its validation keep to torch",
    )
    image_tokens: int = Field(
        IMAGE_TOKENS,
        ge=1,
        description="about the most tokens of an image: it is shrunk, and not cut into tiles, to "
        "take no more where the model can do with so few; openai: what an image counts as",
    )
    special_tokens: tuple[str, ...] = Field(
        (),
        description="further text that the model reads as chat markup: it is broken up wherever "
        "items or summaries hold it, as are the marks of all families in wide use and a local "
        "tokenizer's own (docs/architecture.md)",
    )
    prefill: bool = Field(
        True, description="the model can continue an answer begun for it (openai: the server can)"
    )
    base_url: str = Field(
        "",
        description="openai, and scorer = endpoint: the endpoint, such as http://localhost:8000/v1",
    )
    key_env: str = Field(
        "OPENAI_API_KEY", description="openai: the environment variable that holds the key"
    )
    concurrency: int = Field(8, ge=1, description="openai: requests under way at once")
    timeout: float = Field(120.0, gt=0, description="openai: seconds to wait for one answer")
    retries: int = Field(8, ge=0, description="openai: tries after a failed one")
    extra: dict[str, Any] = Field(
        default_factory=dict,
        description="openai: further fields of every request, as the endpoint names them, such "
        "as repetition_penalty",
    )
    price_in: float = Field(0.0, ge=0, description="openai: cost of a million prompt tokens")
    price_out: float = Field(0.0, ge=0, description="openai: cost of a million answer tokens")

    @field_validator("base_url")
    @classmethod
    def _no_secret(cls, base_url: str) -> str:
        if secret := _secret_in(base_url):
            raise _secret(secret)
        return base_url

    @field_validator("key_env")
    @classmethod
    def _a_name(cls, key_env: str) -> str:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", key_env):
            raise _secret(
                "is no name of an environment variable: name one, and put the key into it"
            )
        return key_env

    @field_validator("extra")
    @classmethod
    def _no_key(cls, extra: dict[str, Any]) -> dict[str, Any]:
        for name in _names_in(extra):
            if re.search(_SECRETS, name.lower().replace("-", "_")):
                raise _secret(f"holds {name}, which is written into files and reports: {_ADVICE}")
        for name in sorted({"messages", "prompt", "input", "tokens"} & set(extra)):
            raise _secret(f"holds {name}, which would replace every prompt: leave it out")
        return extra

    @property
    def special_name(self) -> str:
        """What `special_tokens` adds to a model's identity; nothing where there are none."""
        return f" without {json.dumps(self.special_tokens)}" if self.special_tokens else ""

    def meaning(self) -> dict[str, Any]:
        """The settings that a text or a training depends on, as plain values."""
        plain = {"image_tokens"} if self.image_tokens == IMAGE_TOKENS else set()
        # an endpoint that only scores is held to the weights: where it is changes nothing
        place = {} if self.backend == "openai" else {"base_url": "", "extra": {}}
        return self.model_copy(update=place).model_dump(
            mode="json", exclude={*SPEED_ONLY, "scorer", *plain}
        )

    @property
    def for_texts(self) -> ModelSettings:
        """The settings for what scores nothing, or more than the answers of a prompt."""
        return self.model_copy(update={"scorer": "torch"}) if self.scorer == "endpoint" else self


class CompressSettings(Settings):
    """A smaller ranking model: linear layers as two thin ones (OD-LLM, arXiv 2601.09306)."""

    ratio: float = Field(
        0.5, gt=0, lt=1, description="the share of the decoder layers' numbers that is kept"
    )
    cases: int = Field(64, ge=1, description="training cases whose ranking prompts calibrate")
    align: Literal["none", "inputs", "outputs"] = Field(
        "outputs",
        description="fit each layer to what comes out of the compressed ones before it: inputs: to "
        "do with it what its whole form would (the paper's); outputs: to give what the whole model "
        "gives there",
    )
    ranks: Literal["even", "by_loss"] = Field(
        "even",
        description="even: each layer keeps the same share; by_loss: those keep more that would "
        "lose more",
    )
    recover_steps: int = Field(
        200,
        ge=0,
        le=100_000,
        description="steps of a training after that, in which the smaller model follows the whole "
        "one, a training case each; with more steps than cases these come again; 0: none (the "
        "paper's)",
    )


def open_model(settings: ModelSettings, adapter: Path | None = None) -> Any:
    """Opens a model, with a LoRA adapter in PEFT's format where one is given.

    It may take a minute; the logger `trsr.models` says so at the level INFO, which the command line
    shows.

    Returns:
        A `LanguageModel`; a `ScoringModel` where the backend gives log-probabilities.

    Raises:
        ConfigError: If there is no such backend, or it cannot take an adapter.
        ModelError: If the model cannot be loaded or reached.
    """
    backend = BACKENDS.load(settings.backend)
    _log.info("opening the language model %s (%s)", settings.name, settings.backend)
    with BACKENDS.blamed(settings.backend, "its opening"):
        return backend(settings, adapter)
