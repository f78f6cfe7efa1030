"""The stage that trains the model to write the next title (LLMSeqPrompt, arXiv:2309.09261)."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator
from typing import Any

from trsr.config import Config
from trsr.data import Dataset
from trsr.pipeline.artifacts import cases_file
from trsr.pipeline.fitted_rankers import title_prompt_settings
from trsr.pipeline.ranking import check_prepared
from trsr.pipeline.runner import Job, Stage
from trsr.prompts import Titles, TitleWriter
from trsr.recommender import TITLE_ADAPTER
from trsr.settings import derive_seed
from trsr.training import late_loss
from trsr.training.encode import TextExample

_log = logging.getLogger(__name__)


def _settings(config: Config) -> dict[str, Any]:
    if not config.titled:
        return {"train_title": {"epochs": 0}}
    training = config.train.for_titles.meaning() | {"seed": config.train_seed}
    return {"train_title": training} | title_prompt_settings(config)


def _train_title(job: Job) -> dict[str, Any]:
    config = job.config
    if not config.titled:
        return {"steps": 0, "why": "no ranker asks for titles, or train.epochs is 0"}
    from trsr.training.start import train_on_texts

    dataset = Dataset.load(job.run.folder)
    check_prepared(config, dataset)
    titles = Titles(dataset.catalog, config.prompts)
    for note in titles.notes():
        _log.warning("train_title: %s", note)
    untold = 0

    def texts(opened: Any) -> list[TextExample]:
        nonlocal untold
        writer = TitleWriter(config.prompts, opened.count_tokens, opened.context_tokens)
        found = list(_examples(dataset, titles, writer))
        untold = len(dataset.cases("train")) - len({one.query for one in found})
        return found

    result = train_on_texts(
        texts,
        model=config.model,
        settings=config.train.for_titles,
        seed=derive_seed(config.train_seed, "train_title"),
        out=job.out / TITLE_ADAPTER,
        state=job.work,
        progress=job.progress,
    )
    info = {"titles": titles.counts, "cases_without_title": untold}
    late = late_loss(result.losses)
    info |= {"first_loss": round(result.losses[0], 4)}
    info |= {"late_loss": round(late, 4)} if late is not None else {}
    kept = ("steps", "cases", "tokens", "distinct_tokens", "parameters", "earlier_seconds")
    own = dataclasses.asdict(result)
    return {key: own[key] for key in kept} | info


def _examples(dataset: Dataset, titles: Titles, writer: TitleWriter) -> Iterator[TextExample]:
    """A training case's prompt and the title of each of its right items."""
    for case in dataset.cases("train"):
        prompt = writer.prompt(case.query.history.items)
        for item in sorted(case.relevant):
            row = titles.rows[dataset.catalog.number(item)]
            if row >= 0:
                yield TextExample(case.query.id, prompt, titles.texts[row])


TRAIN_TITLE = Stage(
    "train_title",
    ("items.parquet", cases_file("train")),
    (TITLE_ADAPTER,),
    _settings,
    _train_title,
)
