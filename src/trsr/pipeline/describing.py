"""The work of the stage `describe`: a multimodal model writes what each item's image shows."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import polars as pl

from trsr.config import Config
from trsr.data.dataset import DESCRIPTION_SCHEMA, DESCRIPTIONS
from trsr.data.images import FOLDER, TABLE
from trsr.errors import DataError, PromptError
from trsr.models import Sampling
from trsr.pipeline.runner import Job, Stage
from trsr.prompts import PromptWriter, load_domain
from trsr.prompts.text import fold_cut
from trsr.recommender import need_eyes, open_cached
from trsr.storage import files
from trsr.storage.images import read_image
from trsr.storage.tables import read_table
from trsr.types import Prompt

_log = logging.getLogger(__name__)
_TOKENS_A_WORD = 3


def _settings(config: Config) -> dict[str, Any]:
    return {
        "words": config.describe.words,
        "asked": load_domain(config.prompts.domain).describe,
        "model": config.describer.meaning(),
    }


def _describe(job: Job) -> dict[str, Any]:
    """Each distinct image is asked about once; its answer is stored by the image's bytes."""
    config, folder = job.config, job.run.folder
    if not files.exists(folder / TABLE):
        raise DataError("describe: the data has no images; name them in data.images")
    again = "give `trsr run` again"
    columns = {"id": pl.String()}
    kept = {"file": pl.String()}
    table = read_table(folder / TABLE, columns, again=again, key=("id",), further=kept)
    names = table["file"].drop_nulls().unique(maintain_order=True).to_list()
    texts: dict[str, str] = {}
    info: dict[str, Any] = {}
    job.progress.begin(len(names), "images")
    if names:
        model = open_cached(config, config.describer)
        need_eyes(model, config.describer, "put a descriptions.parquet (item, digest, text) there")
        words = config.describe.words
        sampling = Sampling(max_tokens=_TOKENS_A_WORD * words)
        room = (model.context_tokens, sampling.max_tokens)
        writer = PromptWriter(config.prompts, model.count_tokens, *room)

        asked: list[str] = []

        def prompts() -> Iterator[Prompt]:
            for name in names:
                prompt = writer.describe(read_image(str(folder / FOLDER / name)), words)
                try:
                    model.count_tokens(prompt)
                except PromptError as error:
                    of = table.filter(file=name)["id"][0]
                    _log.warning("item %s is not described: %s", of, error)
                    continue
                asked.append(name)
                yield prompt

        for position, text in model.generate(prompts(), sampling):
            texts[asked[position]] = fold_cut(text, words)
            job.progress.advance(1, f"{model.counts.asked} asked")
        info = {
            "model": model.identity,
            "asked": model.counts.asked,
            "from_store": model.counts.hits,
            "tokens": model.counts.tokens,
            "empty": sum(not text for text in texts.values()),
            "refused": len(names) - len(asked),
        }
    rows = [
        (item, name.partition(".")[0], texts[name])
        for item, name in table.select("id", "file").drop_nulls().iter_rows()
        if name in texts
    ]
    frame = pl.DataFrame(rows, DESCRIPTION_SCHEMA, orient="row")
    files.write_parquet(frame, job.out / DESCRIPTIONS)
    return {"items": len(rows), "images": len(names), "without": len(table) - len(rows)} | info


DESCRIBE = Stage("describe", (TABLE, FOLDER), (DESCRIPTIONS,), _settings, _describe)
