"""What one CUDA card reaches, on a model of random weights: `benchmarks/gpu.sh` runs it."""

from __future__ import annotations

import dataclasses
import random
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks.memory import bench_memory
from benchmarks.options import GpuOptions, ScoreOptions, TrainOptions
from benchmarks.page import write_page
from benchmarks.records import Place, Result, Work, record, speed_ratio
from benchmarks.score import bench_score, open_local, place_of, synthetic
from benchmarks.summarize import PlainGenerate
from benchmarks.timing import Variant, interleave
from benchmarks.train import bench_train
from trsr.errors import ConfigError
from trsr.machine import gpu
from trsr.models.base import Sampling
from trsr.models.settings import ModelSettings
from trsr.progress import Progress
from trsr.types import Message, Prompt

QWEN = {
    "vocab_size": 151936,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
}
"""The shape of Qwen2-0.5B (its published configuration)."""
TINY = {
    "vocab_size": 1000,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
REPORTED = 2200
"""Items a second that LinkedIn reports for one H100, of a model and prompts of its own."""
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\n' }}"
    "{% endfor %}"
)


def bench_gpu(options: GpuOptions, progress: Progress) -> Iterator[Result]:
    """Measures scoring, training and generation one after the other, and writes the page.

    Args:
        options: The size, the page, and for how many minutes parts are begun.
        progress: Shows each run.

    Yields:
        Results as they are found: a part that fails, or that has no time left, says so.

    Raises:
        ConfigError: If there is no CUDA device, and the size is not the tiny one.
    """
    if not torch.cuda.is_available() and not options.tiny:
        raise ConfigError(
            "torch sees no CUDA device: run this on a machine with one and torch's build for CUDA; "
            "--tiny tries every step on a CPU"
        )
    ends = time.monotonic() + 60 * options.minutes
    found: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as folder:
        write_model(Path(folder), tiny=options.tiny)
        settings = ModelSettings(
            name=folder,
            dtype="float32" if options.tiny else "bfloat16",
            scorer="torch",
            batch_tokens=2048 if options.tiny else 32_768,
        )
        for title, part in _parts(settings, options, progress):
            if time.monotonic() > ends:
                results: Iterable[Result] = [Result(title, (), ("not run: no time was left",))]
            else:
                try:
                    results = list(part())
                except Exception as error:  # a card is lent once: the rest goes on
                    results = [Result(title, (), (f"failed: {type(error).__name__}: {error}",))]
            found += results
            write_page(options.output, found, "benchmarks/gpu.sh")
            yield from results


def _parts(
    settings: ModelSettings, options: GpuOptions, progress: Progress
) -> list[tuple[str, Callable[[], Iterable[Result]]]]:
    sizes: dict[str, Any] = {"prefix": 40, "rest": 8} if options.tiny else {}
    sizes |= {"repeats": options.repeats, "seed": options.seed}
    return [
        ("score", lambda: _score(settings, options, sizes, progress)),
        ("train alone", lambda: [bench_memory(settings, TrainOptions(**sizes), progress)]),
        (
            "train",
            lambda: [bench_train(open_local(settings), TrainOptions(**sizes), progress)],
        ),
        ("generate", lambda: [_generate(settings, options, progress)]),
    ]


def _score(
    settings: ModelSettings, options: GpuOptions, sizes: dict[str, Any], progress: Progress
) -> Iterator[Result]:
    opened = open_local(settings)
    asked = ScoreOptions(**sizes, variants=("tree",))
    where = place_of(opened)
    for queries, candidates in ((2, 5), (1, 10)) if options.tiny else ((16, 20), (4, 100)):
        load = synthetic(opened, asked, queries, candidates)
        load = dataclasses.replace(load, calls=[load.prompts])  # as ranking asks: many at once
        for one in bench_score(opened, [load], asked, progress, where):
            tree = next(row for row in one.records if row.variant.endswith("/tree"))
            items = (tree.prompts or 0) / tree.seconds
            notes = (
                f"tree: {items:,.0f} items a second; LinkedIn reports {REPORTED:,} on one H100, of "
                "another model and other prompts",
                f"{where.peak or 0:.3g} floating-point operations a second of the best matrix "
                f"product in {where.dtype}",
            )
            yield Result(f"{one.title}, {gpu() or 'CPU'}", one.records, (*one.notes, *notes))


def _generate(settings: ModelSettings, options: GpuOptions, progress: Progress) -> Result:
    """Continuous batching beside batches that wait for their slowest text.

    The head is drawn anew, apart from the embeddings, or a random model would repeat one token;
    and a share of all tokens ends a text, so that lengths differ.
    """
    opened = open_local(settings)
    network, draw = opened.network, random.Random(options.seed)  # noqa: S311
    size = int(network.config.vocab_size)
    own = network.get_output_embeddings()
    with torch.no_grad():
        weight = torch.randn(own.weight.shape, generator=torch.Generator().manual_seed(0))
        own.weight = torch.nn.Parameter((0.02 * weight).to(own.weight), requires_grad=False)
    # a text has 40 tokens in the mean
    network.generation_config.eos_token_id = draw.sample(range(3, size), size // 40)
    many, most = (8, 8) if options.tiny else (256, 128)
    letters = "abcdefghijklmnopqrstuvwxyz"
    prompts = [
        Prompt(
            (
                Message(
                    "user",
                    "".join(draw.choices(letters, k=draw.randint(20, 50 if options.tiny else 400))),
                ),
            )
        )
        for _ in range(many)
    ]
    sampling = Sampling(max_tokens=most, temperature=0.0)
    batches = (4,) if options.tiny else (32, 128)
    ways: dict[str, Any] = {f"generate-{rows}": PlainGenerate(opened, rows) for rows in batches}
    for rows in batches:
        of = settings.model_copy(update={"batch_size": rows})
        other = open_local(of)
        other.network = network
        ways[f"continuous-{rows}"] = other
    where = place_of(opened, peak=False)

    def variant(name: str, way: Any) -> Variant:
        def run(some: list[Prompt]) -> list[tuple[int, str]]:
            return list(way.generate(some, sampling))

        return Variant(name, lambda: run(prompts), warm=lambda: run(prompts[:4]))

    variants = [variant(*one) for one in ways.items()]
    timings = interleave(variants, options.repeats, where.device, progress)
    work, first = Work(many, many), next(iter(timings.values()))
    records = tuple(
        record("generate", name, Place(where.device, where.dtype), one, work, ratio)
        for name, one in timings.items()
        for ratio in [speed_ratio(one, work, first, work)]
    )
    texts = {name: sum(len(text) for _, text in one.result) for name, one in timings.items()}
    notes = [f"letters written: {', '.join(f'{name} {size:,}' for name, size in texts.items())}"]
    title = f"generate, {many} prompts, at most {most} tokens each; ratios are of prompts a second"
    return Result(title, records, tuple(notes))


def write_model(folder: Path, *, tiny: bool) -> None:
    """Writes a Qwen2 of random weights with a tokenizer of single bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    ids = {one: place for place, one in enumerate(["<end>", *alphabet])}
    inner = Tokenizer(models.BPE(vocab=ids, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, **dict.fromkeys(("eos_token", "pad_token"), "<end>")
    )
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    own = {"tie_word_embeddings": True, "max_position_embeddings": 4096, "eos_token_id": 0}
    torch.manual_seed(0)
    config = transformers.Qwen2Config(**(TINY if tiny else QWEN), **own)
    kind = torch.float32 if tiny else torch.bfloat16
    network = transformers.AutoModelForCausalLM.from_config(config, dtype=kind)
    network.save_pretrained(folder)
