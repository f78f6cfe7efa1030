"""Makes an item encoder of a language model, in three phases (LLM2Rec, He et al. 2025).

`csft` teaches which title follows others, `mntp` to fill in masked tokens from both sides,
`contrast` that an item is nearest to itself. Each phase is a training of its own, and goes on with
the LoRA adapter of the one before. What is written is a folder of sentence-transformers.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from trsr.errors import DataError, ModelError
from trsr.models.encoders import check_bidirectional
from trsr.models.hf import load
from trsr.models.settings import ModelSettings
from trsr.models.token_tree.kv_cache import decoder_of
from trsr.models.token_tree.tokens import Tokens
from trsr.models.weights import local_weights, quiet
from trsr.progress import Progress
from trsr.registry import optional
from trsr.settings import derive_seed
from trsr.storage import files
from trsr.training.adapter import linear_layers
from trsr.training.encode import EncodedCase, fingerprint
from trsr.training.losses import Loss, next_token_losses, text_example_loss
from trsr.training.settings import EncodeSettings, Phase, TrainSettings
from trsr.training.start import open_trainable, run_training
from trsr.training.step import Schedule

_log = logging.getLogger(__name__)

MAX_TOKENS = 512
"""Of a text, and of a history in CSFT, which is cut on the left."""
MASK_SHARE = 0.2
"""Share of a text's tokens that are masked (the authors' code)."""
TEMPERATURE = 0.1
"""Of the contrast (the authors' code; the paper says .2)."""
PART_TOKENS = 512
"""Of the forward passes that a contrast's batch is cut into: their activations are the memory."""
_FEW_TEXTS = 1_000
_LOOKED_AT = 256  # texts whose vectors show a collapse
_RANK = 16  # of LoRA
_SHOWN = 5  # latest titles in a training prompt of csft
_RATE = {"csft": 1e-3, "mntp": 5e-4, "contrast": 2e-4}
_DROPOUT = {"csft": 0.0, "mntp": 0.0, "contrast": 0.1}  # without, both views are equal
_BATCH = {"csft": 8, "mntp": 32}


@dataclass(frozen=True, slots=True)
class PhaseResult:
    """What a phase did.

    Attributes:
        steps: Optimizer steps.
        first_loss: The mean loss of the first tenth of the steps.
        last_loss: That of the last tenth.
        cosine: After it, the mean cosine of the vectors of two texts drawn at random.
        rank: After it, the effective rank of 256 texts' vectors (the exponential of the entropy of
            their squared singular values' shares): a collapse shows in both.
        tokens: Tokens trained on.
        seconds: Time in steps.
    """

    steps: int
    first_loss: float
    last_loss: float
    cosine: float
    rank: float
    tokens: int
    seconds: float


def train_item_encoder(
    sequences: Sequence[Sequence[str]],
    texts: Sequence[str],
    *,
    model: ModelSettings,
    settings: EncodeSettings,
    seed: int,
    out: Path,
    state: Path,
    progress: Progress,
) -> dict[str, PhaseResult]:
    """Trains an encoder; stoppable and resumable at any step of any phase.

    Texts are distinct; users' item texts are those of the training interactions, oldest first.

    Returns:
        What each phase did, and under `base` the vectors before the first.

    Raises:
        ConfigError: If a library is missing, or the backend cannot be trained.
        DataError: If no user has two items with text, or there are fewer texts than a batch takes.
        ModelError: If the model cannot read in both directions, has no mask of one token, or
            diverges.
        StaleRunError: If `state` was made with other settings.
        StoreError: If the state cannot be read or written.
    """
    found: dict[str, PhaseResult] = {}
    adapter: Path | None = None
    for phase in settings.phases:
        work = _Phase(phase, model, settings, seed, sequences, texts)
        if not found:
            found["base"] = work.looked_at()
        done = work.run(state / phase, adapter, progress)
        adapter = state / phase / "adapter"
        found[phase] = done
        _log.info("%s: %s", phase, done)
    write_encoder(model, adapter, out)
    return found


class _Phase:
    """One phase: its cases and its loss."""

    def __init__(
        self,
        name: Phase,
        model: ModelSettings,
        settings: EncodeSettings,
        seed: int,
        sequences: Sequence[Sequence[str]],
        texts: Sequence[str],
    ) -> None:
        self._name, self._model, self._settings = name, model, settings
        self._seed = derive_seed(seed, name)
        self._opened = open_trainable(model, "set it to transformers")
        self._opened.network.eval()
        self._tokenizer = plain_tokenizer(local_weights(model.name, revision=model.revision))
        self._sequences, self._texts = sequences, texts

    def run(self, state: Path, start: Path | None, progress: Progress) -> PhaseResult:
        """Trains, from the start or from the last state, and keeps the adapter beside it."""
        name, network = self._name, self._opened.network
        steps = int(getattr(self._settings, f"{name}_steps"))
        count, case = self._next_titles() if name == "csft" else self._single_texts()
        batch = min(_BATCH.get(name, self._settings.batch_size), count)
        cases = [case(place) for place in draws(count, steps, batch, self._seed)]
        options = TrainSettings(
            epochs=1,
            learning_rate=_RATE[name],
            warmup_steps=min(20, steps // 5),
            cases_per_step=batch,
            weight_decay=0.0,
            rank=_RANK,
            alpha=2 * _RANK,
            dropout=_DROPOUT[name],
            targets=linear_layers(network),
        )
        if name == "contrast":  # its batch is one sum, and never cut into parts
            self._opened.settings = self._opened.settings.model_copy(
                update={"batch_tokens": sum(case.tokens for case in cases)}
            )
        weights = load_file(start / "adapter_model.safetensors") if start else None
        result = run_training(
            self._opened,
            cases,
            options,
            name=self._model.name,
            identity={
                "cases": fingerprint(cases),
                "start": files.hash_file(start / "adapter_model.safetensors") if start else "",
                **options.meaning(),
            },
            seed=self._seed,
            out=state / "adapter",
            state=state,
            progress=progress,
            loss=self._loss(),
            start=weights,
            schedule=_InOrder(len(cases), options, self._seed),
            unit=f"{name} steps",
        )
        network.eval()
        tenth = max(1, result.steps // 10)
        return dataclasses.replace(
            self.looked_at(),
            steps=result.steps,
            first_loss=round(float(np.mean(result.losses[:tenth])), 4),
            last_loss=round(float(np.mean(result.losses[-tenth:])), 4),
            tokens=result.tokens,
            seconds=result.step_seconds,
        )

    def looked_at(self) -> PhaseResult:
        """How alike the vectors of drawn texts are."""
        rng = np.random.default_rng(derive_seed(self._seed, "looked at"))
        drawn = rng.permutation(len(self._texts))[:_LOOKED_AT]
        tokens = [self._tokens(self._texts[place]) for place in drawn]
        config = decoder_of(self._opened.network).config
        before = getattr(config, "is_causal", True)
        decoder = bidirectional_decoder(self._opened.network)
        with torch.no_grad():
            vectors = torch.cat(
                [mean_states(decoder, tokens[at : at + 32]) for at in range(0, len(tokens), 32)]
            )
        config.is_causal = before  # csft reads in one direction
        unit = torch.nn.functional.normalize(vectors.double(), dim=1)
        count = len(unit)
        cosine = float((unit.sum(0).square().sum() - count) / max(1, count * (count - 1)))
        shares = torch.linalg.svdvals(unit).square() / count
        entropy = -torch.xlogy(shares, shares).sum()
        return PhaseResult(0, 0.0, 0.0, round(cosine, 4), round(float(entropy.exp()), 1), 0, 0.0)

    def _single_texts(self) -> tuple[int, Callable[[int], EncodedCase]]:
        """Texts whose tokens differ: equal ones are one item, and no negatives of each other."""
        least = 2 if self._name == "mntp" else 1  # a first token is never predicted
        found = dict.fromkeys(self._tokens(text) for text in self._texts)
        distinct = [one for one in found if len(one) >= least]
        if self._name == "contrast":
            self._check_contrast(len(distinct), self._settings.batch_size)
        elif not distinct:
            raise DataError("mntp: no item's text has two tokens; leave mntp out of encode.phases")
        cases = [
            EncodedCase.of(str(n), [one], [((), ())], [True]) for n, one in enumerate(distinct)
        ]
        return len(cases), cases.__getitem__

    def _check_contrast(self, distinct: int, batch: int) -> None:
        if batch > distinct:
            raise DataError(
                f"contrast: a batch takes {batch} different texts, and the items have {distinct}: "
                f"set encode.batch_size to at most {distinct}, or leave contrast out of "
                "encode.phases"
            )
        if distinct < _FEW_TEXTS:
            _log.warning("contrast: %d different texts are few to learn from", distinct)

    def _next_titles(self) -> tuple[int, Callable[[int], EncodedCase]]:
        """Histories, newest last, and the text that came next with an end."""
        sequences = self._sequences
        places = [(user, at) for user, own in enumerate(sequences) for at in range(1, len(own))]
        if not places:
            raise DataError(
                "csft: no user has two training interactions with items that have a text, so there "
                "is no order to learn; leave csft out of encode.phases"
            )
        alone = sum(len(own) < 2 for own in sequences)
        if alone:
            _log.warning("csft: %d users have fewer than two training interactions", alone)
        end = self._tokenizer.eos_token_id
        start = self._tokens("")  # what the tokenizer puts before a text

        @functools.cache
        def line(text: str) -> Tokens:
            return self._tokens(f"{text}\n", special=False)

        @functools.cache
        def case(place: int) -> EncodedCase:
            user, at = places[place]
            own = sequences[user]
            shown = own[max(0, at - _SHOWN) : at]
            history = [token for text in shown for token in line(text)]
            answer = line(own[at]) + (() if end is None else (end,))
            prompt = (*start, *history[-MAX_TOKENS:])
            return EncodedCase.of(f"{user}/{at}", [prompt], [(answer, ())], [True])

        return len(places), case

    def _loss(self) -> Loss:
        if self._name == "csft":
            return text_example_loss
        decoder = bidirectional_decoder(self._opened.network)
        if self._name == "mntp":
            special = frozenset(self._tokenizer.all_special_ids)
            return masked_token_loss(decoder, mask_token(self._tokenizer), special)
        return contrast_loss(decoder)

    def _tokens(self, text: str, *, special: bool = True) -> Tokens:
        found = self._tokenizer(text, add_special_tokens=special)["input_ids"]
        return tuple(found[:MAX_TOKENS])


class _InOrder(Schedule):
    """The cases as they were drawn: a step's own stand side by side."""

    def cases(self, step: int) -> list[int]:
        """Positions of the cases that a step learns from."""
        return sorted(super().cases(step))

    def _order(self, epoch: int) -> list[int]:
        return list(range(self._cases))


def draws(count: int, steps: int, batch: int, seed: int) -> list[int]:
    """[steps * batch] numbers below `count`: none twice in a batch, all before any comes again."""
    found: list[int] = []
    for epoch in range(-(-steps // max(1, count // batch))):
        order = np.random.default_rng(derive_seed(seed, "order", str(epoch))).permutation(count)
        found += order[: count // batch * batch].tolist()
    return found[: steps * batch]


def plain_tokenizer(folder: Path) -> Any:
    """A model's tokenizer to which all text is plain, and which fills up on the right.

    Marks of the chat format in an item's text are letters like others, in training and in use:
    both settings are written with it.
    """
    tokenizer = load.load_tokenizer(folder, split_special_tokens=True, padding_side="right")
    # with one, sentence-transformers writes each text into a turn of a chat
    tokenizer.chat_template = None
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def mask_token(tokenizer: Any) -> int:
    """The token that stands for a hidden one: the tokenizer's own, else an underscore.

    Raises:
        ModelError: If an underscore is not one token either.
    """
    if tokenizer.mask_token_id is not None:
        return int(tokenizer.mask_token_id)
    found = tokenizer("_", add_special_tokens=False)["input_ids"]
    if len(found) != 1:
        raise ModelError(
            "mntp: this model has no mask token, and writes an underscore as "
            f"{len(found)} tokens: leave mntp out of encode.phases, or choose another model"
        )
    return int(found[0])


def bidirectional_decoder(network: Any) -> Any:
    """The decoder of a causal language model, switched to attention in both directions.

    Raises:
        ModelError: If it still reads in one.
    """
    decoder = decoder_of(network)
    # on the loaded configuration: as an argument of loading it would be dropped
    decoder.config.is_causal = False
    check_bidirectional(decoder)
    return decoder


def padded(texts: Sequence[Tokens], device: torch.device) -> tuple[Tensor, Tensor]:
    """[texts, longest] tokens, filled up on the right, and where they are real."""
    ids = torch.zeros(len(texts), max(map(len, texts)), dtype=torch.long)
    there = torch.zeros_like(ids)
    for row, text in enumerate(texts):
        ids[row, : len(text)] = torch.tensor(text)
        there[row, : len(text)] = 1
    return ids.to(device), there.to(device)


def states(decoder: Any, ids: Tensor, there: Tensor) -> Tensor:
    """[texts, longest, width] the last states."""
    found: Tensor = decoder(input_ids=ids, attention_mask=there, use_cache=False).last_hidden_state
    return found


def mean_states(decoder: Any, texts: Sequence[Tokens]) -> Tensor:
    """[texts, width] the mean of the last states of each text's tokens, fp32."""
    ids, there = padded(texts, decoder.device)
    weight = there[..., None].float()
    return (states(decoder, ids, there).float() * weight).sum(1) / weight.sum(1)


def _in_parts(decoder: Any, texts: Sequence[Tokens]) -> Tensor:
    """`mean_states` of a batch that is one sum, with the activations of one part at a time.

    Each part is computed again in the backward pass, with the same dropout.
    """
    longest = max(map(len, texts))
    size = max(1, PART_TOKENS // longest)
    if size >= len(texts):
        return mean_states(decoder, texts)
    parts = [texts[at : at + size] for at in range(0, len(texts), size)]
    return torch.cat(
        [checkpoint(mean_states, decoder, part, use_reentrant=False) for part in parts]
    )


def masked_token_loss(decoder: Any, mask: int, special: frozenset[int]) -> Loss:
    """Masked next-token prediction: the state *before* a masked token predicts it.

    L = −mean_{i∈M} log softmax(E h_{i−1})[w_i] for each text, M drawn anew each step. A text's
    first token has no state before it, and is never predicted (LLM2Vec, BehnamGhader et al. 2024).
    The decoder reads in both directions; special tokens are never masked.
    """

    def loss(network: Any, cases: Sequence[EncodedCase], batch_tokens: int) -> Tensor:
        texts = [case.prompts[0] for case in cases]
        ids, there = padded(texts, decoder.device)
        hidden = _hidden(texts, special).to(ids.device)
        found = states(decoder, ids.masked_fill(hidden, mask), there)
        rows, places = hidden.nonzero(as_tuple=True)
        wanted = list(enumerate(ids[rows, places].tolist()))
        each = next_token_losses(network, found[rows, places - 1], wanted)
        sums = torch.zeros(len(texts), device=each.device).index_add(0, rows, each)
        return sums / hidden.sum(1)

    return loss


def _hidden(texts: Sequence[Tokens], special: frozenset[int]) -> Tensor:
    """[texts, longest] which tokens are masked: at least one of each text, never the first."""
    found = torch.zeros(len(texts), max(map(len, texts)), dtype=torch.bool)
    for row, text in enumerate(texts):
        able = [at for at in range(1, len(text)) if text[at] not in special] or [len(text) - 1]
        drawn = torch.rand(len(able))
        chosen = (drawn < MASK_SHARE) | (drawn == drawn.min())
        found[row, torch.tensor(able)[chosen]] = True
    return found


def contrast_loss(decoder: Any) -> Loss:
    """Contrast of two dropout views of each text with those of the others (SimCSE, InfoNCE).

    sentence-transformers' loss; its trainer keeps pickled states, so the loop is this package's.
    """
    name = "sentence_transformers.sentence_transformer.losses"
    losses = optional(name, "embeddings", "the phase contrast")
    infonce = losses.MultipleNegativesRankingLoss(model=None, scale=1 / TEMPERATURE)

    def loss(network: Any, cases: Sequence[EncodedCase], batch_tokens: int) -> Tensor:
        texts = [case.prompts[0] for case in cases]
        views = [_in_parts(decoder, texts) for _ in range(2)]
        value: Tensor = infonce.compute_loss_from_embeddings(views, None)
        return value.expand(len(cases))  # the mean over them is the batch's loss

    return loss


def write_encoder(model: ModelSettings, adapter: Path | None, folder: Path) -> None:
    """Writes the model with its adapter as an encoder that sentence-transformers opens alone.

    fp32 weights; attention in both directions and the mean over tokens are written out: what the
    library would guess goes by the class in `config.json`.

    Raises:
        ConfigError: If sentence-transformers is not installed.
        ModelError: If model or adapter cannot be loaded, or there is no room.
    """
    library = optional("sentence_transformers", "embeddings", "the stage encode")
    modules = optional(
        "sentence_transformers.sentence_transformer.modules", "embeddings", "the stage encode"
    )
    base = local_weights(model.name, revision=model.revision)
    plain = model.model_copy(update={"dtype": "float32", "quantize": "none"})
    decoder = bidirectional_decoder(load.load_network(plain, base, adapter, torch.device("cpu")))
    try:
        with quiet():
            decoder.save_pretrained(folder)
            plain_tokenizer(base).save_pretrained(folder)
            reader = modules.Transformer(str(folder), max_seq_length=MAX_TOKENS)
            pooling = modules.Pooling(decoder.config.hidden_size, "mean")
            made = library.SentenceTransformer(modules=[reader, pooling], device="cpu")
            made.save_pretrained(str(folder), create_model_card=False)
    except OSError as error:
        raise ModelError(
            f"the encoder cannot be written into {folder} ({error}): make room, then run the same "
            "command again"
        ) from error
