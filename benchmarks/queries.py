"""Real data for the benches: a configuration's own queries, prepared aside."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.score import Workload
from trsr.config import Config, check_config, find_config, load_config
from trsr.data import Dataset, guess, prepare
from trsr.errors import ConfigError, DataError
from trsr.models.hf.model import TransformersModel
from trsr.pipeline.artifacts import read_summaries, summarized
from trsr.pipeline.stages import located
from trsr.progress import Progress, Silent
from trsr.rankers.batch import ASKED
from trsr.recommender import ranking_writer
from trsr.types import Query


def config_for(
    path: Path, overrides: Sequence[str] = (), data: Path | None = None
) -> tuple[str, Config]:
    """A configuration and the name of its data.

    Args:
        path: A TOML file, a recipe's name or a run directory.
        overrides: `section.key=value` each.
        data: A folder whose folder of the configuration's name holds its files; None: the files
            are where the configuration says.

    Raises:
        ConfigError: Listing every mistake.
    """
    found = find_config(path)
    name = path.name if path.is_dir() else found.stem
    config = load_config(path, overrides)
    if data is None:
        return name, config
    moved: dict[str, Any] = {}
    for key in ("interactions", "items", "impressions"):
        file: Path | None = getattr(config.data, key)
        if file is not None:
            moved[key] = data.absolute() / name / file.name
    return name, config.model_copy(update={"data": config.data.model_copy(update=moved)})


def config_of_files(interactions: Path, items: Path) -> tuple[str, Config]:
    """A configuration guessed from two files, with words for small models.

    Raises:
        DataError: If the files cannot be read, or a column cannot be guessed.
    """
    found = guess(interactions, items)
    data = found.settings.model_dump(mode="json", exclude_defaults=True)
    data |= {"interactions": str(interactions.absolute()), "items": str(items.absolute())}
    values = {
        "data": data,
        "prompts": {"domain": found.domain, "style": "worked", "fields": list(found.fields)},
        "train": {"epochs": 0},
        "rank": {"rankers": ["llm_zero_shot"]},
    }
    return interactions.name.split(".")[0], check_config(values, str(interactions))


@contextmanager
def prepared(
    config: Config, *, queries: int, candidates: int = 0, progress: Progress | None = None
) -> Iterator[Dataset]:
    """A configuration's data, prepared in a folder that is gone afterwards.

    Args:
        config: Says where the data is and how it is cut.
        queries: Test queries that are drawn.
        candidates: Candidates of each; 0: as the configuration says. Data with candidate lists of
            its own keeps them.
        progress: Shows the steps.

    Raises:
        DataError: If the data cannot be used.
    """
    changed: dict[str, Any] = {"train_users": 1, "valid_cases": 1, "test_cases": queries}
    if candidates:
        changed["negatives"] = candidates - 1
    settings = located(config.data).model_copy(update=changed)
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as folder:
        prepare(settings, Path(folder), seed=config.run.seed, progress=progress or Silent())
        yield Dataset.load(folder)


def judged(
    name: str, config: Config, model: TransformersModel, *, queries: int, candidates: int
) -> Workload:
    """The judge prompts of a configuration's test queries, as ranking asks them.

    Summaries are shown where the configuration's run directory holds them for the same queries;
    else the prompts say that there is none.

    Raises:
        ConfigError: If yes and no are more than one token each, or not the same everywhere.
        DataError: If the data cannot be used.
    """
    writer = ranking_writer(config, model)
    known = read_summaries(config.run.folder, ("test",))

    def summarized_query(query: Query) -> Query:
        summary = known.get(query.id)
        fits = summary is not None and summary.user == query.history.user
        return summarized(query, summary) if summary is not None and fits else query

    with prepared(config, queries=queries, candidates=candidates) as dataset:
        asked = [summarized_query(case.query) for case in dataset.cases("test")]
    if not asked:
        raise DataError(f"{name}: the data holds no test query")
    encoded = [
        [model.encode_answers(prompt, writer.answers) for prompt in writer.rank(query)]
        for query in asked
    ]
    answers = {question.answers for query in encoded for question in query}
    if len(answers) != 1 or any(len(tokens) != 1 for tokens in next(iter(answers))):
        raise ConfigError(
            f"{name}: the answers {writer.answers} are not one token each for {model.settings.name}"
        )
    (yes,), (no,) = next(iter(answers))
    prompts = [[tuple(question.stem) for question in query] for query in encoded]
    together = ASKED
    calls = [
        [tokens for query in prompts[start : start + together] for tokens in query]
        for start in range(0, len(prompts), together)
    ]
    sizes = tuple(len(query) for query in prompts)
    return Workload(f"{name}-{max(sizes)}", calls, sizes, (yes, no))
