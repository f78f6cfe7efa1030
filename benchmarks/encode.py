"""`python -m benchmarks encode`: a catalog's texts as vectors, together and one at a time."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.options import EncodeOptions
from benchmarks.records import Place, Result, Work, record, speed_ratio
from benchmarks.timing import Variant, interleave
from trsr.errors import ConfigError
from trsr.models.encoders import SentenceEncoder, embed
from trsr.progress import Progress
from trsr.rankers.item_text import ENCODER, ITEM_VECTORS, read_item_vectors


def bench_encode(options: EncodeOptions, progress: Progress) -> Result:
    """Times the item encoder of a finished run over its items' texts.

    The plain way encodes one text at a time, padded to the longest one.

    Args:
        options: The run, and how many texts.
        progress: Shows each run.

    Raises:
        TrsrError: If the run has no encoder.
    """
    folder = Path(options.run or "")
    known = read_item_vectors(folder / ITEM_VECTORS)
    if not known:
        raise ConfigError("name a run directory that `trsr run` made with method = 'llm2rec'")
    texts = [text for text, _ in zip(known, range(options.items), strict=False)]
    encoder = SentenceEncoder(str(folder / ENCODER))
    longest, alone = _one_at_a_time(encoder, texts)

    def together() -> Any:
        with tempfile.TemporaryDirectory(prefix="benchmarks-") as cache:
            return embed(texts, encoder, cache=Path(cache))

    def padded() -> Any:
        return {text: alone(text) for text in texts}

    def single() -> Any:
        return {text: encoder.encode([text])[0] for text in texts}

    variants = [Variant("padded", padded), Variant("single", single), Variant("trsr", together)]
    timings = interleave(variants, options.repeats, "cpu", progress)
    work = Work(len(texts), len(texts))
    reference = timings["padded"]
    records = tuple(
        record(
            "encode", name, Place("cpu", "auto"), one, work, speed_ratio(one, work, reference, work)
        )
        for name, one in timings.items()
    )
    apart = max(
        float(np.abs(timings["trsr"].result[text] - timings["padded"].result[text]).max())
        for text in texts
    )
    return Result(
        f"encode {len(texts)} texts of at most {longest} tokens",
        records,
        (f"largest difference of a number: {apart:.2g}",),
    )


def _one_at_a_time(encoder: SentenceEncoder, texts: list[str]) -> tuple[int, Callable[[str], Any]]:
    """The longest text's tokens, and the plain way: each text padded to as many."""
    import torch

    encoder.encode(texts[:1])  # opens it
    model = encoder._model
    longest = max(model.tokenize([text])["input_ids"].shape[1] for text in texts)

    @torch.inference_mode()
    def alone(text: str) -> Any:
        features = model.tokenize([text])
        wide = {
            name: torch.nn.functional.pad(features[name], (0, longest - features[name].shape[1]))
            for name in ("input_ids", "attention_mask")
        }
        vector = model(wide)["sentence_embedding"][0].float()
        return torch.nn.functional.normalize(vector, dim=0).numpy()

    return longest, alone
