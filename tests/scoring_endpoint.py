"""Servers that score as vLLM and SGLang say they do, over a model in this process."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import torch
from chat_endpoint import Call


class Served:
    """What a scoring server does with a request; attributes are its faults.

    Args:
        models: The served models by name, opened by the backend `transformers`.
        shape: vllm, old (a vLLM that knows no `logprob_token_ids`), texts (tokens as texts), sglang
            or silent (an SGLang that does not say what it used).
        faults: Attributes in place of the class's own.
    """

    owner = ""  # who serves; empty: as the shape
    context = 1024
    listed = 20  # most tokens in a list
    keep = 10**9  # last tokens of a prompt that are read
    around = 0  # tokens that are put before a prompt
    constant = False  # whether every prompt has the same scores
    mixing = 0.0  # what prompts that are answered together add to each other
    biased = False  # whether log-probabilities count the bias
    deaf = False  # whether the bias does nothing
    mute = False  # whether there are no log-probabilities
    vocabulary = 0  # how far tokens are moved
    slow = 0.0
    first: tuple[Any, ...] = ()  # done in place of the first answers

    def __init__(self, models: dict[str, Any], shape: str = "vllm", **faults: Any) -> None:
        self.models, self.shape = models, shape
        self.lock = threading.Lock()
        self.at_once = self.scored = 0
        self.used: list[str] = []
        for name, value in faults.items():
            assert hasattr(self, name)
            setattr(self, name, value)

    def __call__(self, call: Call) -> None:
        path = call.handler.path
        if path == "/v1/models":
            owner = self.owner or ("sglang" if self.shape in ("sglang", "silent") else "vllm")
            call.give(
                {"object": "list", "data": [self._model(name, owner) for name in self.models]}
            )
        elif path == "/detokenize":
            tokens = [token + self.vocabulary for token in call.body["tokens"]]
            said = "text" if self.shape in ("sglang", "silent") else "prompt"
            call.give({said: self._any.chat_format.tokenizer.decode(tokens)})
        elif path == "/v1/completions" and self.shape not in ("sglang", "silent"):
            self._answer(call, call.body["prompt"], self._completion)
        elif path == "/v1/score" and self.shape in ("sglang", "silent"):
            (item,) = call.body["items"]
            self._answer(call, call.body["query"] + item, self._score)
        else:
            call.refuse(404, "Not Found")

    @property
    def _any(self) -> Any:
        return next(iter(self.models.values()))

    def _model(self, name: str, owner: str) -> dict[str, Any]:
        found = {"id": name, "object": "model", "created": 1, "owned_by": owner, "root": name}
        return found | {"parent": None, "max_model_len": self.context}

    def _answer(self, call: Call, tokens: list[int], shaped: Any) -> None:
        with self.lock:
            self.scored += 1
            self.used.append(call.body["model"])
            self.at_once += 1
            fault = self.first[self.scored - 1] if self.scored <= len(self.first) else None
        try:
            time.sleep(self.slow)
            if fault is not None:
                fault(call)
                return
            network = self.models.get(call.body["model"], self._any).network
            read = [5] * self.around + tokens[-self.keep :]
            seen = read[:1] if self.constant else read
            with torch.no_grad():
                logits = network(torch.tensor([seen])).logits[0, -1]
            if self.at_once > 1:
                logits = logits + self.mixing * torch.arange(len(logits))
            call.give(shaped(call.body, logits.double(), len(read)))
        finally:
            with self.lock:
                self.at_once -= 1

    def _completion(self, body: dict[str, Any], logits: torch.Tensor, read: int) -> dict[str, Any]:
        assert body["max_tokens"] == 1
        assert body["logprobs"] <= 20
        numbers = logits.log_softmax(0).numpy()
        bias = np.zeros(len(numbers))
        for token, value in body.get("logit_bias", {}).items():
            bias[int(token)] = 0 if self.deaf else value
        if self.biased:
            numbers = (logits + torch.tensor(bias)).log_softmax(0).numpy()
        chosen = int((numbers + bias).argmax())
        likeliest = [int(one) for one in numbers.argsort()[::-1][: min(self.listed, 20)]]
        if self.shape == "vllm":
            likeliest = body.get("logprob_token_ids") or likeliest
        top = {self._named(one): float(numbers[one]) for one in (*likeliest, chosen)}
        said = {
            "tokens": [self._named(chosen)],
            "token_logprobs": [float(numbers[chosen])],
            "top_logprobs": [top],
            "text_offset": [0],
        }
        choice = {"index": 0, "text": "x", "logprobs": None if self.mute else said}
        used = {"prompt_tokens": read, "completion_tokens": 1, "total_tokens": read + 1}
        return {"object": "text_completion", "choices": [choice], "usage": used}

    def _named(self, token: int) -> str:
        if self.shape != "texts":
            return f"token_id:{token}"
        text: str = self._any.chat_format.tokenizer.decode([token])
        return text

    def _score(self, body: dict[str, Any], logits: torch.Tensor, read: int) -> dict[str, Any]:
        assert body["apply_softmax"] is False
        row = logits.softmax(0)[body["label_token_ids"]].tolist()
        used = {"prompt_tokens": read, "completion_tokens": 0, "total_tokens": read}
        found = {"scores": [row], "model": body["model"], "object": "scoring"}
        return found | {"usage": None if self.shape == "silent" else used}
