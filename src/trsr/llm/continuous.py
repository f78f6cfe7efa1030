"""Generates texts by transformers' continuous batching: a new prompt begins when a text ends."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import ContinuousBatchingConfig, GenerationConfig
from transformers.generation.continuous_batching.cb_logits_processors import (
    ContinuousBatchingLogitsProcessor,
    ContinuousBatchingLogitsProcessorList,
)
from transformers.generation.logits_process import LogitsProcessorList

from trsr.errors import ModelError
from trsr.llm.base import Feed, Sampling
from trsr.llm.choice import Row, choose, enumerate_prompts, row_of, stop_tokens
from trsr.llm.layout import Layout

PAGE = 32
"""Tokens of a block of the cache; whole blocks of what prompts begin alike are computed once."""
AHEAD = 2
"""Prompts handed over, in batches: one begins at once where a text has ended."""
WAIT = 1.0
"""Seconds after which a lost thread of transformers is noticed."""


class ContinuousGenerator:
    """One model's way to answer a feed, with the texts of `Generator` but for rounding.

    transformers lays all texts' tokens in one row, over a cache of blocks. Which token comes next
    is chosen here (see `choose`), text by text: so the penalties and each prompt's own draws are
    those of `Generator`. CUDA graphs and flash attention, which would come from the hub, are off.

    Args:
        network: A causal language model in evaluation mode.
        layout: Its tokens.
        batch_size: Texts under way at once.
        batch_tokens: Most tokens in one pass.
        context_tokens: Most tokens of a prompt and its answer.

    Raises:
        ModelError: If the model has no token that ends a text.
    """

    def __init__(
        self, network: Any, layout: Layout, batch_size: int, batch_tokens: int, context_tokens: int
    ) -> None:
        # under PEFT the model within has the adapter's layers in it
        self.network = network.get_base_model() if hasattr(network, "get_base_model") else network
        self.layout, self.context_tokens = layout, context_tokens
        self.batch_size, self.batch_tokens = batch_size, batch_tokens
        self._stops = stop_tokens(network, layout)
        if not self._stops:
            raise ModelError(
                f"{layout.name} knows no token that ends a text, as continuous batching needs: set "
                "model.batching to batches"
            )
        self._stop = min(self._stops)

    def answer(self, feed: Feed, sampling: Sampling) -> Iterator[tuple[int, str]]:
        """Yields (position, text) as `LanguageModel.generate` says.

        Raises:
            ModelError: If transformers cannot generate so with this model.
            PromptError: If a prompt leaves no room for its answer.
        """
        source, going, ended = iter(enumerate_prompts(feed)), dict[str, Row](), False
        with self._manager(going, sampling) as manager:
            while True:
                while not ended and len(going) < AHEAD * self.batch_size:
                    entry = next(source, ())
                    if entry is None:
                        break
                    ended = not entry
                    if entry:
                        row = row_of(*entry, self.layout, sampling, self.context_tokens)
                        going[str(row.position)] = row
                        manager.add_request(
                            list(row.prompt),
                            request_id=str(row.position),
                            max_new_tokens=sampling.max_tokens,
                            eos_token_id=[self._stop],
                        )
                if not going:
                    break
                row = self._next(manager, going)
                yield row.position, row.text
        if not ended:
            raise RuntimeError("the feed waits for an answer, but none is being made")

    def _next(self, manager: Any, going: dict[str, Row]) -> Row:
        """Waits for the next finished text, and takes it out of those under way."""
        while True:
            found = manager.get_result(timeout=WAIT)
            if found is not None and found.is_finished():
                if found.error:
                    raise ModelError(f"{self.layout.name} failed while generating: {found.error}")
                return going.pop(found.request_id)
            if not manager.is_running():
                raise ModelError(
                    f"{self.layout.name} stopped while generating: set model.batching to batches"
                )

    @contextlib.contextmanager
    def _manager(self, going: dict[str, Row], sampling: Sampling) -> Iterator[Any]:
        """The thread of transformers that generates, and its end whatever happens."""
        blocks = -(-(self.context_tokens + 1) // PAGE) * self.batch_size + 1
        try:
            manager = self.network.init_continuous_batching(
                generation_config=GenerationConfig(do_sample=False, eos_token_id=self._stop),
                continuous_batching_config=ContinuousBatchingConfig(
                    page_size=PAGE,
                    num_blocks=blocks,
                    max_batch_tokens=self.batch_tokens,
                    max_requests_per_batch=self.batch_size,
                    use_cuda_graph=False,
                    use_async_batching=False,
                    auto_switch_to_flash=False,
                ),
            )
        except (AttributeError, ValueError, NotImplementedError) as error:
            raise ModelError(
                f"transformers cannot batch {self.layout.name} continuously ({error}): set "
                "model.batching to batches"
            ) from error
        # what fails comes back with the text that it failed for, and is raised
        logging.getLogger("ContinuousBatchingLogger").setLevel(logging.CRITICAL)
        chooser = _Chooser(going, sampling, self._stops, self._stop)
        manager.logit_processor = ContinuousBatchingLogitsProcessorList(
            LogitsProcessorList([chooser])
        )
        manager.logit_processor.tensors_required = 1
        manager.start()
        try:
            yield manager
        finally:
            manager.stop(block=True, hard_stop=True)
            manager.destroy()


class _Chooser(ContinuousBatchingLogitsProcessor):  # type: ignore[misc]
    """Chooses the next tokens, and leaves transformers nothing but to take them.

    Args:
        rows: The texts under way, by request.
        sampling: How they are chosen.
        stops: Tokens that end a text.
        stop: The one of them that tells transformers so.
    """

    supported_kwargs: dict[str, type] = {}  # noqa: RUF012 - the base class's
    ignored_kwargs: tuple[str, ...] = ()

    def __init__(
        self, rows: dict[str, Row], sampling: Sampling, stops: frozenset[int], stop: int
    ) -> None:
        self._rows, self._sampling = rows, sampling
        self._stops, self._stop = stops, stop
        self._asked: list[Row] = []

    def fill_defaults(self, int32_tensor: Tensor) -> None:
        int32_tensor.zero_()

    def prepare_tensor_args(self, requests_with_new_token: Sequence[Any]) -> Tensor:
        """Notes whose tokens the next pass is asked for, in the logits' order."""
        self._asked = [self._rows[one.state.request_id] for one in requests_with_new_token]
        return torch.zeros(len(self._asked), dtype=torch.int32)

    def __call__(self, scores: Tensor, tensor_arg: Tensor) -> Tensor:
        """All but the chosen token of each row are impossible; scores: [texts, vocabulary]."""
        asked = self._asked
        tokens = choose(scores[: len(asked)], asked, self._sampling)
        for place, (row, token) in enumerate(zip(asked, tokens, strict=True)):
            row.write(token, self._stops, self._sampling.max_tokens)
            scores[place] = -torch.inf
            scores[place, self._stop if row.done else token] = 0
        return scores
