"""The other libraries: each opens what was exported for it, and answers without trsr's models."""

from __future__ import annotations

import json
import urllib.request
import warnings
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from trsr.registry import optional

Logits = npt.NDArray[np.floating[Any]]


class Library(Protocol):
    """A library that has opened an exported model."""

    def encode(self, text: str) -> list[int]:
        """The text's tokens."""

    def following(self, tokens: Sequence[int], wanted: Sequence[int]) -> Logits:
        """[wanted] log-probabilities of tokens that may follow, up to a constant."""


def margin(library: Library, text: str, answers: tuple[str, str]) -> float:
    """Log p(first answer) − log p(second one) after a text, as a library computes it.

    Both answers must begin with different tokens; of longer ones the first token decides.
    """
    first, second = (library.encode(text + answer) for answer in answers)
    pairs = zip(first, second, strict=False)
    stem = first[: len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))]
    yes, no = library.following(stem, (first[len(stem)], second[len(stem)]))
    return float(yes) - float(no)


class _Tokenized:
    """Text to tokens by the tokenizer beside the model."""

    def __init__(self, folder: Path) -> None:
        transformers = optional("transformers", "local", "reading the tokenizer")
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(folder)

    def encode(self, text: str) -> list[int]:
        """The text's tokens, chat markup in it read as such."""
        found: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
        return found


class Transformers(_Tokenized):
    """transformers alone, which opens a merged checkpoint."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._network = self._opened(folder).eval()

    def _opened(self, folder: Path) -> Any:
        import transformers

        return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="float32")

    def following(self, tokens: Sequence[int], wanted: Sequence[int]) -> Logits:
        """See `Library`."""
        import torch

        with torch.no_grad():
            logits = self._network(torch.tensor([tokens]), logits_to_keep=1).logits[0, -1]
        found: Logits = logits[list(wanted)].double().numpy()
        return found


class Peft(Transformers):
    """PEFT, which puts the adapter on its base model.

    `base` is that model's folder, where it is not fetched by the adapter's own name for it.
    """

    def __init__(self, folder: Path, base: Path) -> None:
        self._base = base
        super().__init__(folder)

    def _opened(self, folder: Path) -> Any:
        peft = optional("peft", "local", "the format peft")
        with warnings.catch_warnings():
            # peft 0.21 asks transformers 5.23 for something by its older name
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated")
            return peft.PeftModel.from_pretrained(super()._opened(self._base), folder)


class OnnxRuntime(_Tokenized):
    """onnxruntime, which opens `model.onnx`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        runtime = optional("onnxruntime", "onnx", "the format onnx")
        self._session = runtime.InferenceSession(folder / "model.onnx")

    def following(self, tokens: Sequence[int], wanted: Sequence[int]) -> Logits:
        """See `Library`."""
        (logits,) = self._session.run(None, _inputs(tokens))
        found: Logits = logits[0, -1, list(wanted)]
        return found


class OpenVino:
    """OpenVINO, which opens model and tokenizer."""

    def __init__(self, folder: Path) -> None:
        openvino = optional("openvino", "openvino", "the format openvino")
        optional("openvino_tokenizers", "openvino", "the format openvino")
        core = openvino.Core()
        self._tokenizer = core.compile_model(folder / "openvino_tokenizer.xml", "CPU")
        # OpenVINO's own choice, bfloat16 on some CPUs, moves scores by a tenth
        exact = {"INFERENCE_PRECISION_HINT": "f32"}
        self._network = core.compile_model(folder / "openvino_model.xml", "CPU", exact)

    def encode(self, text: str) -> list[int]:
        """The text's tokens, chat markup in it read as such."""
        found: list[int] = self._tokenizer([text])["input_ids"][0].tolist()
        return found

    def following(self, tokens: Sequence[int], wanted: Sequence[int]) -> Logits:
        """See `Library`."""
        found: Logits = self._network(_inputs(tokens))[0][0, -1, list(wanted)]
        return found


def _inputs(tokens: Sequence[int]) -> dict[str, npt.NDArray[np.int64]]:
    ids = np.array([tokens], np.int64)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


class LlamaCpp:
    """llama.cpp's server by xllamacpp, which opens `model.gguf`."""

    def __init__(self, folder: Path, context: int = 2048) -> None:
        library = optional("xllamacpp", "dev", "asking llama.cpp")
        params = library.CommonParams()
        params.model.path = str(folder / "model.gguf")
        params.n_ctx, params.n_parallel, params.port = context, 1, 0
        params.warmup, params.verbosity = False, 0
        self._server = library.Server(params)

    def encode(self, text: str) -> list[int]:
        """The text's tokens, chat markup in it read as such."""
        asked = {"content": text, "add_special": False, "parse_special": True}
        found: list[int] = self._ask("tokenize", asked)["tokens"]
        return found

    def following(self, tokens: Sequence[int], wanted: Sequence[int]) -> Logits:
        """See `Library`. Both are made so likely that nothing else is left beside them."""
        asked = {"prompt": list(tokens), "n_predict": 1, "n_probs": len(wanted), "top_k": 0}
        asked |= {"temperature": 1.0, "top_p": 1.0, "min_p": 0.0, "post_sampling_probs": True}
        asked |= {"samplers": ["temperature"], "logit_bias": [[one, 100.0] for one in wanted]}
        (step,) = self._ask("completion", asked)["completion_probabilities"]
        known = {one["id"]: one["prob"] for one in step["top_probs"]}
        with np.errstate(divide="ignore"):
            return np.log([known.get(one, 0.0) for one in wanted])

    def _ask(self, what: str, body: Any) -> Any:
        request = urllib.request.Request(  # noqa: S310 - the server in this process
            f"{self._server.listening_address}/{what}",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=600) as answer:  # noqa: S310 - as above
            return json.load(answer)
