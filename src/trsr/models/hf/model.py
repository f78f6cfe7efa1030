"""A local model through transformers: scores answers and generates texts."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from trsr.errors import ModelError, PromptError
from trsr.models.base import Feed, Sampling, ScoringModel, Table
from trsr.models.chat_format import ChatFormat, FormattedModel, Question
from trsr.models.hf import load
from trsr.models.hf.generate import Generator, stop_tokens
from trsr.models.hf.item_vectors import (
    ENCODER,
    VECTORS,
    ItemEncoder,
    ItemVectors,
    StoredVectors,
    encoder_digest,
    open_encoder,
    read_slots,
)
from trsr.models.hf.soft_summary import (
    SUMMARY,
    SoftSummaries,
    SummaryEncoder,
    open_summary_encoder,
)
from trsr.models.hf.vision import ImageVectors, VisionFormat, load_processor
from trsr.models.openvino.compiled import BITS, CompiledPass, compiled_pass, resolve
from trsr.models.openvino.graph import rounded
from trsr.models.settings import ModelSettings
from trsr.models.text_search import Search, search
from trsr.models.thinking import MissingTexts
from trsr.models.token_tree.kv_cache import decoder_of
from trsr.models.token_tree.prefix_cache import PrefixCache
from trsr.models.token_tree.tokens import Tokens, common
from trsr.models.token_tree.tree import answer_logits, answer_states, log_normalizer
from trsr.models.vector_format import VectorFormat
from trsr.models.weights import local_weights, sees
from trsr.storage import files
from trsr.types import Prompt

PREFIX_TOKENS = 4096
"""Tokens of prompts' beginnings kept between calls when scoring on a CPU, so that the instruction
and users who come back are not computed again."""
_BEFORE = 8
"""Tokens before a text that may change its own."""
_TEXTS = 256
"""Texts that are scored together."""


def open_model(settings: ModelSettings, adapter: Path | None = None) -> ScoringModel:
    """Opens a local model: an embedded name, a folder or a hub id, with a LoRA adapter or none.

    With `model.scorer = "endpoint"` it is one that an endpoint serves, held to these weights.
    """
    if settings.scorer == "endpoint":
        from trsr.models.hf.endpoint import EndpointScorer  # which stands on this module

        return EndpointScorer(settings, adapter)
    return TransformersModel(settings, adapter)


class TransformersModel(FormattedModel):
    """A `ScoringModel` that runs in this process, on the CPU, CUDA or MPS.

    Attributes:
        network: The torch module; a PEFT wrapper where the adapter stays beside the weights.
        device: Where it runs.
        chat_format: The chat format: how prompts become tokens.
        scorer: What scores: torch or openvino.
        prefix_cache: What is kept of prompts between calls.

    Raises:
        ConfigError: If the machine lacks the device or the library that is asked for.
        ModelError: If model or adapter cannot be found or loaded.
    """

    def __init__(self, settings: ModelSettings, adapter: Path | None = None) -> None:
        self.settings = settings
        folder = local_weights(settings.name, revision=settings.revision)
        self.device = load.pick_device(settings)
        self.network = load.load_network(settings, folder, adapter, self.device)
        self.chat_format = self._format(folder)
        self.items: ItemVectors | None = None
        self.summaries: SoftSummaries | None = None
        own_encoder = None if adapter is None else adapter / ENCODER
        if own_encoder is not None and files.is_folder(own_encoder):
            self._read_items(folder, own_encoder)
        own = getattr(self.network.config.get_text_config(), "max_position_embeddings", None)
        self._context_tokens = min(settings.context_tokens, own or settings.context_tokens)
        dtype = load.pick_dtype(settings, self.device)
        plain = not (self.takes_images or self.items)
        self.scorer = resolve(self.network, settings.scorer) if plain else "torch"
        self._identity = load.identity(settings, folder, adapter, dtype)
        if self.scorer != "torch":
            self._identity += f" {self.scorer}"
        if self.takes_images:
            self._identity += f" images of {settings.image_tokens}"
        if own_encoder is not None and self.items:
            self._identity += f" items {encoder_digest(own_encoder)}"
        self._identity += settings.special_name
        if own_encoder is not None and self.summaries:
            self._identity += f" summaries {encoder_digest(own_encoder / SUMMARY)}"
            self.summaries.identity = self._identity
        self.prefix_cache = PrefixCache(PREFIX_TOKENS)
        self._kept_texts: dict[Tokens, dict[str, Tokens]] = {}

    def _format(self, folder: Path) -> ChatFormat:
        settings = self.settings
        if not sees(folder):
            tokenizer = load.load_tokenizer(folder)
            return ChatFormat(tokenizer, settings.name, specials=settings.special_tokens)
        vectors = ImageVectors(
            self.network, load_processor(folder), settings.image_tokens, settings.name
        )
        return VisionFormat(vectors, settings.name, settings.special_tokens)

    def _read_items(self, folder: Path, own: Path) -> None:
        shape = tuple(read_slots(own)["slots"].shape)
        stored = StoredVectors(own / VECTORS, encoder_digest(own), shape)

        @functools.cache
        def encoder() -> ItemEncoder:
            return open_encoder(self.settings, folder, own, self.device)

        self.take_items(shape[0], encoder, stored)
        summary = own / SUMMARY
        if not files.is_folder(summary):
            return

        @functools.cache
        def summary_encoder() -> SummaryEncoder:
            return open_summary_encoder(self.settings, folder, summary, self.device)

        self.take_summaries(len(read_slots(summary)["slots"]), summary_encoder)

    def take_items(
        self,
        count: int,
        encoder: Callable[[], ItemEncoder],
        stored: StoredVectors | None = None,
    ) -> ItemVectors:
        """Lets prompts hold vectors of items.

        The encoder is asked for once a vector is in no file.

        Raises:
            ModelError: If the model sees: both kinds of vectors have no place in one prompt.
        """
        if self.takes_images:
            raise ModelError(
                f"{self.settings.name} looks at images: set prompts.item_vectors = 0, or name a "
                "model of texts"
            )
        batch = self.settings.batch_tokens
        self.items = ItemVectors(self.network, count, encoder, stored, batch_tokens=batch)
        self.chat_format = VectorFormat(
            self.chat_format.tokenizer,
            self.settings.name,
            self.items.numbers,
            self.settings.special_tokens,
        )
        return self.items

    def take_summaries(self, count: int, encoder: Callable[[], SummaryEncoder]) -> SoftSummaries:
        """Lets prompts hold soft summaries, where they hold vectors of items already.

        Raises:
            ModelError: If items are read as texts.
        """
        if self.items is None or not isinstance(self.chat_format, VectorFormat):
            raise ModelError("soft summaries are made of item vectors: set prompts.item_vectors")
        batch = self.settings.batch_tokens
        self.summaries = SoftSummaries(self.network, count, self.items, encoder, batch_tokens=batch)
        self.chat_format.summaries = self.summaries.numbers
        return self.summaries

    @property
    def summary_vectors(self) -> int:
        """How many vectors stand in prompts for a soft summary; 0: it takes none."""
        return self.summaries.numbers.count if self.summaries else 0

    @property
    def item_vectors(self) -> int:
        """How many vectors stand in prompts for an item; 0: items are read as texts."""
        return self.items.numbers.count if self.items else 0

    @property
    def takes_images(self) -> bool:
        """Whether prompts may hold images."""
        return isinstance(self.chat_format, VisionFormat)

    @property
    def engine(self) -> str:
        """What scores, and in which number format."""
        return f"{self.scorer}, {str(self.network.dtype).removeprefix('torch.')}"

    @property
    def size(self) -> int:
        """Bytes of the model's numbers as they are multiplied."""
        found: int = sum(one.numel() * one.element_size() for one in self.network.parameters())
        bits = BITS[self.settings.quantize] if self.scorer == "openvino" else 0
        for module in decoder_of(self.network).layers.modules() if bits else ():
            if type(module) is torch.nn.Linear:
                weight = module.weight
                codes, scales = rounded(weight.float().numpy(), bits)
                found += codes.size * bits // 8 + scales.nbytes
                found -= weight.numel() * weight.element_size()
        return found

    def keep_prefixes(self, size: int) -> None:
        """Bounds what is kept of prompts between calls by bytes, not by tokens; 0: nothing is."""
        config = decoder_of(self.network).config
        heads = config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // heads
        shared = getattr(config, "num_key_value_heads", None) or heads
        of_number = 4 if self.scorer == "openvino" else self.network.dtype.itemsize
        token = 2 * config.num_hidden_layers * shared * width * of_number
        self.prefix_cache = PrefixCache(size // token)

    def forget(self) -> None:
        """Empties what is kept of prompts between calls."""
        self.prefix_cache = PrefixCache(self.prefix_cache.budget)
        self.chat_format.forget()
        self._kept_texts.clear()
        if self.summaries:
            self.summaries.forget()

    def encode(self, prompt: Prompt) -> list[int]:
        """The prompt's tokens as the model reads it."""
        return list(self.chat_format.encode(prompt))

    def encode_answers(self, prompt: Prompt, answers: Sequence[str]) -> Question:
        """The tokens before all answers, and each answer's own, found by encoding in place.

        Raises:
            ModelError: If two answers have the same tokens.
            PromptError: If prompt and longest answer exceed the context.
        """
        (question,) = self.chat_format.questions([prompt], answers)
        self._check_length(prompt, question)
        return question

    def _check_length(self, prompt: Prompt, question: Question) -> None:
        longest = len(question.stem) + max(map(len, question.answers), default=0)
        if longest > self.context_tokens:
            raise PromptError(
                f"a prompt has {longest} tokens with its answer, but {self.settings.name} is read "
                f"with at most {self.context_tokens}: shorten the prompt or raise "
                f"model.context_tokens (it ends {prompt.messages[-1].shown[-60:]!r})"
            )

    def encode_text(
        self, prompt: Prompt, text: str, *, complete: bool = True
    ) -> tuple[Tokens, Tokens]:
        """The tokens before a text, and its own, encoded where it stands.

        Of a complete answer the token that ends a turn follows.

        Raises:
            ModelError: If the text has no tokens of its own.
            PromptError: If prompt and text exceed the context.
        """
        question = self.encode_answers(prompt, [text])
        end = (
            self.chat_format.closing(stop_tokens(self.network, self.chat_format))
            if complete
            else ()
        )
        return question.stem, (*question.answers[0], *end)

    def score_texts(self, prompts: Sequence[Prompt], texts: Sequence[Sequence[str]]) -> list[Table]:
        """How likely each text is as the whole answer: see `TextScoringModel.score_texts`.

        Raises:
            ModelError: If a text adds no token.
            PromptError: If a prompt with a text exceeds the context.
        """
        tables: list[list[Table]] = [[np.zeros((0, 2))] for _ in prompts]
        # a head's rows for all tokens of a whole catalog would be its whole vocabulary
        for part in _parts(texts):
            asked = [self._texts_after(prompts[row], texts[row][a:b]) for row, a, b in part]
            for (row, _, _), table in zip(part, self._score_tokens(asked), strict=True):
                tables[row].append(table)
        return [np.concatenate(own) for own in tables]

    def _score_tokens(self, asked: Sequence[tuple[Tokens, Sequence[Tokens]]]) -> list[Table]:
        """Of each text after its stem the log-probability, and its tokens."""
        pairs = [
            [[(stem + text[:at], token) for at, token in enumerate(text)] for text in texts]
            for stem, texts in asked
        ]
        every = [pair for texts in pairs for text in texts for pair in text]
        rows = {one: at for at, one in enumerate(dict.fromkeys(sequence for sequence, _ in every))}
        columns = {one: at for at, one in enumerate(dict.fromkeys(token for _, token in every))}
        if not every:
            return [np.zeros((0, 2)) for _ in asked]
        known = self._log_probabilities(list(rows), list(columns))
        return [
            np.array(
                [
                    (
                        sum(known[rows[sequence], columns[token]] for sequence, token in text),
                        len(text),
                    )
                    for text in texts
                ]
            )
            for texts in pairs
        ]

    def search_texts(
        self, prompts: Sequence[Prompt], texts: Sequence[Sequence[str]], beams: int
    ) -> list[Table]:
        """The likeliest of some texts: see `TextScoringModel.search_texts`.

        Raises:
            ModelError: If a text adds no token.
            PromptError: If a prompt with a text exceeds the context.
        """
        found = []
        size = self.settings.batch_size
        for start in range(0, len(prompts), size):
            some = zip(prompts[start : start + size], texts[start : start + size], strict=True)
            asked = [self._texts_after(*one) for one in some]
            # texts that the model reads alike are one
            searches = [Search(stem, sorted(set(own)), beams) for stem, own in asked]
            search(searches, self._log_probabilities)
            for one, (_, own) in zip(searches, asked, strict=True):
                score = {one.texts[place]: value for place, value in one.found.items()}
                found.append(np.array([score.get(text, -np.inf) for text in own]))
        return found

    def _texts_after(self, prompt: Prompt, texts: Sequence[str]) -> tuple[Tokens, list[Tokens]]:
        """The tokens before all of these texts, and each one's own with its end.

        A text's tokens depend on the few before it alone, so they are kept for the next prompt
        that ends alike.
        """
        own = self.chat_format.encode(prompt)
        kept = self._kept_texts.setdefault(own[-_BEFORE:], {})
        end = self.chat_format.closing(stop_tokens(self.network, self.chat_format))
        fresh = {}
        for text in texts:
            if text not in kept:
                (question,) = self.chat_format.questions([prompt], [text])
                fresh[text] = question.stem + question.answers[0]
        stem = min((common(own, one) for one in fresh.values()), default=len(own))
        if stem == len(own):
            kept |= {text: one[stem:] for text, one in fresh.items()}
            tokens = [(*kept[text], *end) for text in texts]
        else:  # what is written changes the prompt's last token: nothing is kept
            whole = {text: own + kept[text] for text in texts if text in kept} | fresh
            tokens = [(*whole[text][stem:], *end) for text in texts]
        self._check_length(prompt, Question(own[:stem], tuple(tokens)))
        return own[:stem], tokens

    def score(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> npt.NDArray[np.float64]:
        """The log-probability of each answer after each prompt.

        Shared prefixes are computed once (see `answer_states`): give all candidates of a query,
        and many queries, in one call. On a CPU prefixes are cached across calls too, up to
        `PREFIX_TOKENS`.

        Returns:
            Shape (prompts, answers), natural logarithms. The answers' rows of the head are
            computed in fp32; the normalizer, the same for all answers at a place, in the
            model's own dtype with an fp32 sum.

        Raises:
            ModelError: If two answers have the same tokens after a prompt.
            PromptError: If a prompt with an answer exceeds the context.
        """
        questions = self.chat_format.questions(prompts, answers)
        for prompt, question in zip(prompts, questions, strict=True):
            self._check_length(prompt, question)
        # (sequence, next token) → its place: an answer's tokens, one after the other
        sequences: dict[Tokens, int] = {}
        columns: dict[int, int] = {}
        for question in questions:
            for sequence, token in answer_steps(question):
                sequences.setdefault(sequence, len(sequences))
                columns.setdefault(token, len(columns))
        scores = np.zeros((len(prompts), len(answers)))
        if not sequences:
            return scores
        log_probabilities = self._log_probabilities(list(sequences), list(columns))
        for row, question in enumerate(questions):
            for column, answer in enumerate(question.answers):
                one = Question(question.stem, (answer,))
                places = [(sequences[known], columns[token]) for known, token in answer_steps(one)]
                scores[row, column] = sum(log_probabilities[place] for place in places)
        return scores

    def generate(self, prompts: Feed, sampling: Sampling) -> Iterator[tuple[int, str]]:
        """Yields (position, text), each as soon as it is finished, without the model's thinking.

        In bfloat16 a greedy text may depend on its batch. Cached responses do not change.

        Raises:
            ModelError: If the model cannot generate here.
            PromptError: If a prompt leaves no room for its answer.
        """
        missing = MissingTexts()
        try:
            for position, text in self._generator.answer(prompts, sampling):
                yield position, missing.text(text, sampling.max_tokens)
        finally:
            missing.log("name a model that does not think")

    @functools.cached_property
    def _generator(self) -> Generator:
        return Generator(
            self.network, self.chat_format, self.settings.batch_size, self.context_tokens
        )

    @functools.cached_property
    def compiled(self) -> CompiledPass | None:
        """The pass that scores in torch's place, where the setting `scorer` asks for one."""
        return compiled_pass(self.network, self.scorer, self.settings.quantize)

    def _log_probabilities(
        self, sequences: Sequence[Tokens], tokens: Sequence[int]
    ) -> npt.NDArray[np.float64]:
        """Of each of the tokens after each of the sequences: [sequences, tokens]."""
        with torch.no_grad(), self._evaluating():
            states = answer_states(
                self.network,
                sequences,
                batch_tokens=self.settings.batch_tokens,
                prefix_cache=self.prefix_cache,
                packed=self.compiled,
            )
            logits = answer_logits(self.network, states, tokens).double()
            normalizer = log_normalizer(self.network, states).double()
            found: npt.NDArray[np.float64] = (logits - normalizer[:, None]).cpu().numpy()
        return found

    @contextlib.contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Without dropout, also when scoring in the middle of training."""
        training = self.network.training
        self.network.eval()
        try:
            yield
        finally:
            self.network.train(training)


def answer_steps(question: Question) -> Iterator[tuple[Tokens, int]]:
    """Each answer token with the sequence that it follows."""
    for answer in question.answers:
        for place, token in enumerate(answer):
            yield question.stem + answer[:place], token


def _parts(texts: Sequence[Sequence[str]]) -> Iterator[list[tuple[int, int, int]]]:
    """(prompt, first text, last text) in groups of about `_TEXTS` texts."""
    group: list[tuple[int, int, int]] = []
    count = 0
    for row, own in enumerate(texts):
        for first in range(0, len(own), _TEXTS):
            last = min(first + _TEXTS, len(own))
            if group and count + last - first > _TEXTS:
                yield group
                group, count = [], 0
            group.append((row, first, last))
            count += last - first
    if group:
        yield group
