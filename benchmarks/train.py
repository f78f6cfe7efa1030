"""A training step's forward and backward pass: pairwise and by the token tree."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from benchmarks.engines import padded_states, shared_prefixes
from benchmarks.options import TrainOptions
from benchmarks.peak import Cost
from benchmarks.records import Place, Result, Work, record, speed_ratio
from benchmarks.score import place_of
from benchmarks.timing import Variant, interleave
from trsr.errors import ConfigError
from trsr.models.hf.model import TransformersModel
from trsr.models.token_tree.kv_cache import decoder_of, run
from trsr.models.token_tree.tokens import Tokens, tree_stats
from trsr.models.token_tree.tree import HEAD_ROWS, all_logits, answer_logits
from trsr.progress import Progress
from trsr.settings import derive_seed
from trsr.training.activation_cache import ActivationCache, first_adapted_layer
from trsr.training.adapter import Adapter
from trsr.training.encode import EncodedCase
from trsr.training.losses import listwise_loss, text_loss
from trsr.training.settings import TrainSettings
from trsr.training.start import pass_tokens, token_bytes

Loss = Callable[[Any, Sequence[EncodedCase], int], Tensor]
Given = Callable[[Sequence[EncodedCase]], contextlib.AbstractContextManager[None]]
Gradients = dict[str, Tensor]

REFERENCE = "pairwise"
LORA = TrainSettings(loss="listwise", learning_rate=1e-3, dropout=0)
"""As in the recipes."""


def synthetic_cases(
    vocabulary: int, *, cases: int, prefix: int, candidates: int, rest: int, seed: int = 0
) -> list[EncodedCase]:
    """Random cases: a prefix that the candidates share, one of them relevant."""
    queries = shared_prefixes(cases, prefix, candidates, rest, vocabulary=vocabulary, seed=seed)
    yes_no = ((vocabulary // 3,), (vocabulary // 2,))
    return [
        EncodedCase.of(
            f"bench/{number}",
            prompts,
            [yes_no] * candidates,
            [place == number % candidates for place in range(candidates)],
        )
        for number, prompts in enumerate(queries)
    ]


def pairwise_listwise_loss(network: Any, cases: Sequence[EncodedCase], batch_tokens: int) -> Tensor:
    """The listwise loss of each case, [cases], every prompt computed whole.

    As `trsr.training.losses.listwise_loss`, without sharing; for answers of one token.
    """
    losses = []
    for case in cases:
        prompts = case.prompts
        rows = max(1, batch_tokens // max(map(len, prompts)))
        states = padded_states(network, prompts, rows)
        (yes,), (no,) = case.answers[0]
        logits = answer_logits(network, states, (yes, no))
        margins = logits[:, 0] - logits[:, 1]
        positive = torch.tensor(case.positive, device=margins.device)
        losses.append(-margins.log_softmax(-1)[positive].mean())
    return torch.stack(losses)


def pairwise_text_loss(network: Any, cases: Sequence[EncodedCase], batch_tokens: int) -> Tensor:
    """The loss over the whole text of each case, [cases], every text computed whole.

    As `trsr.training.losses.text_loss`, without sharing.
    """
    return torch.stack([_pairwise_text(network, case.texts, batch_tokens) for case in cases])


def _pairwise_text(network: Any, texts: Sequence[Tokens], batch_tokens: int) -> Tensor:
    def losses(part: Tensor, wanted: Tensor) -> Tensor:
        return cross_entropy(all_logits(network, part), wanted, reduction="none")

    found: list[Tensor] = []
    rows = max(1, batch_tokens // max(map(len, texts)))
    for start in range(0, len(texts), rows):
        batch = texts[start : start + rows]
        hidden, _ = run(decoder_of(network), [text[:-1] for text in batch])
        states = torch.cat([hidden[row, : len(text) - 1] for row, text in enumerate(batch)])
        wanted = torch.tensor([token for text in batch for token in text[1:]]).to(states.device)
        found += [
            checkpoint(losses, *pair, use_reentrant=False, preserve_rng_state=False)
            for pair in zip(
                torch.split(states, HEAD_ROWS), torch.split(wanted, HEAD_ROWS), strict=True
            )
        ]
    return torch.cat(found).mean()


LOSSES: Mapping[str, tuple[Loss, Loss]] = {
    "listwise": (pairwise_listwise_loss, listwise_loss),
    "text": (pairwise_text_loss, text_loss),
}
"""By name: the loss with every prompt computed whole, and training's own."""


def bench_train(
    model: TransformersModel,
    options: TrainOptions,
    progress: Progress,
    place: Place | None = None,
) -> Result:
    """Times one step's gradient over a few cases, in each way, and compares the gradients.

    Pairwise, and by the tree, which cuts the step into micro-batches as training does. With the
    loss `listwise` neither makes logits over the whole vocabulary, with `text` both do at every
    token, and those operations are left out of the peak's share. The optimizer's own move is left
    out. LoRA layers are put into the network.
    Where the frozen layers' work can be kept, a step that trains the upper third of the layers is
    timed as well: as a first epoch does it, and with what the layers below gave kept.

    Args:
        model: The model.
        options: The cases and their tokens, the loss (one of `LOSSES`), repeats and seed.
        progress: Shows each step.
        place: Where the model runs; None: found out, with the peak.
    """
    whole, shared = _named(options.loss)
    seed, loss, settings = options.seed, options.loss, LORA
    where = place or place_of(model)
    network = model.network
    made = synthetic_cases(
        int(network.config.vocab_size),
        cases=options.cases,
        prefix=options.prefix,
        candidates=1 + options.negatives,
        rest=options.rest,
        seed=seed,
    )
    adapter = Adapter(network, settings, "bench", seed)
    _stir(adapter, seed)
    network.train()
    budget = pass_tokens(model.settings, model.device, token_bytes(network))

    def step(
        way: Loss, size: Callable[[EncodedCase], int], given: Given = _nothing, first: int = 0
    ) -> Callable[[], Gradients]:
        def run() -> Gradients:
            # pairwise at its best: with passes of training's own size it is slower
            most = model.settings.batch_tokens if way is whole else budget
            torch.manual_seed(derive_seed(seed, "step"))
            with _adapted_from(network, first):
                for batch in micro_batches(made, size, most):
                    with given(batch):
                        total: Any = way(network, batch, most).sum() / len(made)
                    total.backward()
            return _taken(adapter)

        return run

    def distinct(case: EncodedCase) -> int:
        return case.distinct_tokens

    variants = [
        Variant(REFERENCE, step(whole, lambda case: case.tokens)),
        Variant("tree", step(shared, distinct)),
    ]
    third = max(1, int(decoder_of(network).config.num_hidden_layers) // 3)
    upper = settings.model_copy(update={"upper_layers": third, "epochs": 2})
    first = first_adapted_layer(network, made, upper)
    with as_training(where.device), tempfile.TemporaryDirectory() as folder:
        if first is not None:
            file = Path(folder) / "kept"
            cache = ActivationCache(network, first, made, batch_tokens=budget, file=file)
            name = f"tree/upper-{third}"
            variants += [
                Variant(name, step(shared, distinct, first=first)),
                Variant(f"{name}-kept", step(shared, distinct, cache.activations, first)),
            ]
        timings = interleave(variants, options.repeats, where.device, progress)
    prompts = [prompt for case in made for prompt in case.prompts]
    stats = tree_stats(prompts)
    flops = Cost.of(network).training(prompts) if loss == "listwise" else None
    work = Work(options.cases, len(prompts), stats.tokens, stats.distinct_tokens, flops)
    partly = dataclasses.replace(work, flops=None)  # of some layers
    reference = timings[REFERENCE]
    name = f"{options.prefix}+{1 + options.negatives}x{options.rest}" + (
        "" if loss == "listwise" else f"/{loss}"
    )
    records = tuple(
        record(
            "train",
            f"{name}/{way}",
            where,
            timing,
            partly if "upper" in way else work,
            speed_ratio(timing, work, reference, work),
        )
        for way, timing in timings.items()
    )
    notes = [
        f"{way}: largest relative difference of a gradient from pairwise's "
        f"{gradient_difference(timing.result, reference.result):.2g}"
        for way, timing in timings.items()
        if way.startswith("tree") and "upper" not in way
    ]
    if first is not None:
        repeated, kept = (timings[way] for way in timings if "upper" in way)
        difference = gradient_difference(kept.result, repeated.result)
        notes.append(
            f"upper-{third}: LoRA on the upper {third} layers alone; with the work of those below "
            f"kept {repeated.median / kept.median:.2f} times as fast, and the largest relative "
            f"difference of a gradient {difference:.2g}"
        )
    title = f"train, {name}: {options.cases} cases a step, LoRA of rank {settings.rank} on "
    return Result(title + ", ".join(settings.targets), records, tuple(notes))


def _named(loss: str) -> tuple[Loss, Loss]:
    if loss not in LOSSES:
        raise ConfigError(f"the training bench knows no loss {loss!r}; it has {', '.join(LOSSES)}")
    return LOSSES[loss]


def _nothing(cases: Sequence[EncodedCase]) -> contextlib.AbstractContextManager[None]:
    return contextlib.nullcontext()


@contextlib.contextmanager
def _adapted_from(network: Any, first: int) -> Iterator[None]:
    """While it lasts, LoRA's weights below a layer are as frozen as the model's own."""
    lower = [
        parameter
        for layer in decoder_of(network).layers[:first]
        for parameter in layer.parameters()
        if parameter.requires_grad
    ]
    for parameter in lower:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in lower:
            parameter.requires_grad_(True)


def micro_batches(
    cases: Sequence[EncodedCase], size: Callable[[EncodedCase], int], budget: int
) -> Iterator[list[EncodedCase]]:
    """Neighbouring cases that fit one pass together, as training cuts a step."""
    batch: list[EncodedCase] = []
    for case in cases:
        if batch and sum(map(size, batch)) + size(case) > budget:
            yield batch
            batch = []
        batch.append(case)
    yield batch


def gradient_difference(own: Gradients, other: Gradients) -> float:
    """The largest norm of a parameter's difference, over the norm of `other`'s gradient."""
    return max(
        float((own[name] - other[name]).norm() / other[name].norm().clamp_min(1e-30))
        for name in other
    )


def _stir(adapter: Adapter, seed: int) -> None:
    """Moves LoRA's zero half off zero: beside it the other half's gradients would all be zero."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "stir"))
    with torch.no_grad():
        for name, parameter in adapter.parameters.items():
            if "lora_B" in name:
                drawn = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(0.02 * drawn)


def _taken(adapter: Adapter) -> Gradients:
    """The gradients, taken off the parameters."""
    found: Gradients = {}
    for name, parameter in adapter.parameters.items():
        if parameter.grad is not None:
            found[name] = parameter.grad.float()
        parameter.grad = None
    return found


@contextlib.contextmanager
def as_training(device: str) -> Iterator[None]:
    """On a CPU training adds in a fixed order, which may cost time: so do all ways here."""
    switched = torch.are_deterministic_algorithms_enabled()
    filler: Any = torch.utils.deterministic
    filling = filler.fill_uninitialized_memory
    try:
        if device == "cpu":
            torch.use_deterministic_algorithms(True)
            filler.fill_uninitialized_memory = False
        yield
    finally:
        torch.use_deterministic_algorithms(switched)
        filler.fill_uninitialized_memory = filling
