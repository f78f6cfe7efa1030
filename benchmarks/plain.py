"""The plain way to generate: transformers' own `generate`, a padded batch at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from trsr.models.base import Feed, Sampling
from trsr.models.hf.model import TransformersModel
from trsr.models.token_tree.tokens import Tokens
from trsr.models.weights import quiet
from trsr.types import Prompt


class PlainGenerate:
    """A `LanguageModel` that answers a batch, waits for its slowest text, and takes the next.

    Greedy only. Penalty and forbidden runs count the prompt too, as transformers does.

    Args:
        model: Its network and its chat_format are used.
        batch_size: Prompts side by side; fewer where fewer are ready.
    """

    def __init__(self, model: TransformersModel, batch_size: int) -> None:
        self.model = model
        self.batch_size = batch_size

    @property
    def identity(self) -> str:
        """The model's, by this way."""
        return f"{self.model.identity} generate {self.batch_size}"

    @property
    def context_tokens(self) -> int:
        """The most tokens of a prompt and its answer together."""
        return self.model.context_tokens

    def count_tokens(self, prompt: Prompt) -> int:
        """The prompt's tokens as the model reads it."""
        return self.model.count_tokens(prompt)

    def generate(self, prompts: Feed, sampling: Sampling) -> Iterator[tuple[int, str]]:
        """Yields (position, text), a batch at a time.

        Raises:
            ValueError: If texts are to be drawn.
        """
        if sampling.temperature > 0:
            raise ValueError("the plain way is compared greedily: set the temperature to 0")
        feed, position, ended = iter(prompts), 0, False
        while not ended:
            batch: list[Prompt] = []
            while len(batch) < self.batch_size:
                try:
                    prompt = next(feed)
                except StopIteration:
                    ended = True
                    break
                if prompt is None:
                    break
                batch.append(prompt)
            for text in self._texts(batch, sampling) if batch else ():
                yield position, text
                position += 1

    @torch.no_grad()
    def _texts(self, batch: Sequence[Prompt], sampling: Sampling) -> list[str]:
        chat_format = self.model.chat_format
        prompts: list[Tokens] = [chat_format.encode(prompt) for prompt in batch]
        width = max(map(len, prompts))
        ids = torch.zeros(len(prompts), width, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, tokens in enumerate(prompts):
            ids[row, width - len(tokens) :] = torch.tensor(tokens)
            mask[row, width - len(tokens) :] = 1
        stops = _stops(self.model)
        with quiet():
            found: Any = self.model.network.generate(
                input_ids=ids.to(self.model.device),
                attention_mask=mask.to(self.model.device),
                max_new_tokens=sampling.max_tokens,
                do_sample=False,
                repetition_penalty=sampling.repetition_penalty,
                no_repeat_ngram_size=sampling.no_repeat_ngram,
                eos_token_id=stops,
                pad_token_id=stops[0],
            )
        texts = []
        for tokens, row in zip(prompts, found[:, width:].tolist(), strict=True):
            end = next((at for at, token in enumerate(row) if token in stops), len(row))
            text = chat_format.decode(tokens, row[:end])
            texts.append(text.partition(chat_format.stop)[0] if chat_format.stop else text)
        return texts


def _stops(model: TransformersModel) -> list[int]:
    named = getattr(model.network.generation_config, "eos_token_id", None)
    every = [
        *(named if isinstance(named, list) else [named]),
        model.chat_format.tokenizer.eos_token_id,
    ]
    return sorted({token for token in every if token is not None})
