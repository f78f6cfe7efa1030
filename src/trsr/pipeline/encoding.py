"""The stage `encode`: a language model becomes an item encoder, which encodes the catalog."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

from trsr.config import Config
from trsr.data import Dataset
from trsr.errors import DataError
from trsr.models.encoders import SentenceEncoder, embed
from trsr.pipeline.runner import Job, Stage
from trsr.rankers.item_text import ENCODER, ITEM_VECTORS, item_text, write_item_vectors

_log = logging.getLogger(__name__)


def _settings(config: Config) -> dict[str, Any]:
    """The phases, the model, and what of an item is its text."""
    if not config.rank.own_encoder:
        return {"encode": {"phases": "none"}}
    return {
        "encode": config.encode.model_dump(mode="json"),
        "model": config.model.meaning(),
        "rank": config.rank.model_dump(mode="json", include={"text_fields", "text_words"}),
        "run": {"seed": config.train_seed},
    }


def _encode(job: Job) -> dict[str, Any]:
    from trsr.training.item_encoder import train_item_encoder

    config = job.config
    if not config.rank.own_encoder:
        return {"why": "nothing to encode: no ranker reads the encoder (rank.text_model = 'run')"}
    dataset = Dataset.load(job.run.folder)
    texts = {item.id: item_text(item, config.rank) for item in dataset.catalog}
    distinct = list(dict.fromkeys(text for text in texts.values() if text))
    if not distinct:
        raise DataError("encode: no item has a text; name the text columns in rank.text_fields")
    without = sum(not text for text in texts.values())
    if without:
        _log.warning("%d of %d items have no text, and so no vector", without, len(texts))
    ordered = dataset.interactions.sort("user", "time", maintain_order=True)
    histories = ordered.group_by("user", maintain_order=True).agg("item")["item"]
    phases = train_item_encoder(
        [[texts[item] for item in items if texts[item]] for items in histories],
        distinct,
        model=config.model,
        settings=config.encode,
        seed=config.train_seed,
        out=job.out / ENCODER,
        state=job.work,
        progress=job.progress,
    )
    encoder = SentenceEncoder(str(job.out / ENCODER))
    # kept beside the states: a stopped stage encodes no text twice
    vectors = embed(distinct, encoder, cache=job.work, progress=job.progress)
    write_item_vectors(job.out / ITEM_VECTORS, texts, vectors, encoder.identity)
    return {
        "items": len(texts),
        "texts": len(distinct),
        "without_text": without,
        "width": len(vectors[distinct[0]]),
        "encoder": encoder.identity,
        "phases": {name: dataclasses.asdict(one) for name, one in phases.items()},
    }


ENCODE = Stage(
    "encode",
    ("items.parquet", "interactions.parquet"),
    (ENCODER, ITEM_VECTORS),
    _settings,
    _encode,
)
