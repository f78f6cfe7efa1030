"""Exports a run's ranking model, and holds what another library makes of it to trsr's own."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from trsr.errors import ConfigError, ModelError, StoreError
from trsr.export import card, formats, libraries
from trsr.export.formats import Source
from trsr.metrics.significance import rank_correlation
from trsr.models.weights import quiet
from trsr.pipeline.artifacts import read_summaries
from trsr.progress import Progress, Silent
from trsr.recommender import Recommender
from trsr.registry import near, optional
from trsr.storage import files
from trsr.storage.run_directory import explained
from trsr.types import Query


@dataclass(frozen=True, slots=True)
class Format:
    """One format."""

    library: str
    write: Callable[[Source, Path], None]
    opened: Callable[[Source, Path], libraries.Library] | None


CANDIDATES = 8
"""Of each query that another library ranks: it reads each prompt whole, and alone."""

FORMATS = {
    "peft": Format("peft", formats.write_peft, lambda s, out: libraries.Peft(out, s.folder)),
    "merged": Format(
        "transformers", formats.write_merged, lambda s, out: libraries.Transformers(out)
    ),
    "gguf": Format("llama.cpp", formats.write_gguf, lambda s, out: libraries.LlamaCpp(out)),
    "openvino": Format("openvino", formats.write_openvino, lambda s, out: libraries.OpenVino(out)),
    "onnx": Format("onnxruntime", formats.write_onnx, lambda s, out: libraries.OnnxRuntime(out)),
    "card": Format("", lambda s, out: None, None),
}
"""The model card is written with each; `card` is the card alone."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written, and whether another library ranks by it as trsr does.

    Attributes:
        folder: What was written.
        library: The library that was asked.
        correlations: Of each query the rank correlation (Spearman) of both lists.
        candidates: How many candidates both ranked.
        unchecked: Why the library was not asked; empty where it was.
    """

    folder: Path
    library: str
    correlations: tuple[float, ...] = ()
    candidates: int = 0
    unchecked: str = ""

    def __str__(self) -> str:
        return f"wrote {self.folder}: {self.said}"

    @property
    def said(self) -> str:
        """What the other library made of it, in words."""
        if not self.correlations:
            return self.unchecked
        mean, least = np.mean(self.correlations), min(self.correlations)
        return (
            f"{self.library} alone ranks {len(self.correlations)} queries ({self.candidates} "
            f"candidates); rank correlation with trsr (float32) {mean:.4f}, lowest {least:.4f}"
        )


def refuse_vectors(run: Path) -> None:
    """Raises ConfigError where the ranker reads item vectors, which are made by trsr alone."""
    if files.is_folder(run / "adapter" / "encoder"):
        raise ConfigError(
            f"{run}: the ranker reads items as vectors, and its encoder can be neither "
            "compressed nor written for another library; train with prompts.item_vectors = 0"
        )


def export(
    run: Path,
    to: str,
    out: Path,
    *,
    queries: int = 3,
    licence: str = "",
    progress: Progress | None = None,
) -> Exported:
    """Writes a run's ranking model in a format, with its model card, and asks it back.

    Args:
        run: A run directory.
        to: A name of `FORMATS`.
        out: An empty or new folder.
        queries: Validation queries (of test where there are none) of which both rank the first
            `CANDIDATES` candidates; 0: none.
        licence: The model's licence as a hub names it; empty: the base model's where it is known.
        progress: Shows the queries.

    Raises:
        ConfigError: If there is no such format, or a library that it needs.
        ModelError: If the model cannot be written so, or is to be trained first.
        StoreError: If the folder is not empty, or cannot be written.
    """
    if to not in FORMATS:
        raise ConfigError(f"there is no format {to!r}{near(to, list(FORMATS))}")
    out = Path(os.path.abspath(out))
    if files.listed(out):
        raise StoreError(f"{out}: there is something in it; choose an empty or new folder")
    adapter = run / "adapter"
    tuned = files.is_folder(adapter)
    refuse_vectors(run)
    recommender = Recommender.load(run, "llm" if tuned else "llm_zero_shot")
    if recommender.config.model.backend != "transformers":
        raise ConfigError(
            f"model.backend: {recommender.config.model.backend} holds no weights that trsr could "
            "export; runs with a local model (transformers) can be exported"
        )
    if not tuned and not recommender.config.rank.those("uses_llm"):
        raise ConfigError(
            f"{run}: no ranker of this run asks a language model, so there is none to export; name "
            "llm or llm_zero_shot in rank.rankers, and give `trsr run` again"
        )
    if not tuned and recommender.config.trained:
        raise ModelError(
            f"{run}: there is no trained adapter yet, and the model as it came is not what this "
            f"run ranks by; give `trsr run {run}` first"
        )
    source = Source(
        recommender.config.model, adapter if tuned else None, card.base_model(recommender.config)
    )
    # written beside, so that a stopped export leaves nothing that looks like a whole one
    beside = out.with_name(f".{out.name}.part")
    with explained(out, "another folder"):
        files.remove(beside)  # of one that was killed
        files.make_folder(beside)
        try:
            FORMATS[to].write(source, beside)
            files.write_text(beside / "README.md", card.text(recommender, to, licence))
            files.move(beside, out)
        finally:
            files.remove(beside)
    return _checked(recommender, source, to, out, queries, progress or Silent())


def _checked(
    recommender: Recommender, source: Source, to: str, out: Path, count: int, progress: Progress
) -> Exported:
    made = FORMATS[to]
    if made.opened is None:
        return Exported(out, "", unchecked="the model card alone")
    unchecked = Exported(out, made.library, unchecked=f"{made.library} was not asked")
    if not count:
        return unchecked
    asked = _queries(recommender, count)
    candidates = sum(len(query.candidates) for query in asked)
    progress.begin(candidates, "candidates")
    try:
        with quiet():
            library = made.opened(source, out)
    except ConfigError as error:
        return dataclasses.replace(unchecked, unchecked=f"{made.library} was not asked: {error}")
    own = _exact(recommender, source)
    model, writer = own.ranking_model
    found: list[float] = []
    # a split that no ranker reads has no summaries yet
    for query in own.summarized(asked, Silent()):
        (ranked,) = own.rank([query])
        scores = {entry.item: entry.score for entry in ranked}
        others = []
        for prompt in writer.rank(query):
            text = model.inner.chat_format.text(prompt)
            others.append(libraries.margin(library, text, writer.answers))
            progress.advance()
        found.append(rank_correlation([scores[item.id] for item in query.candidates], others))
    return Exported(out, made.library, tuple(found), candidates)


def _exact(recommender: Recommender, source: Source) -> Recommender:
    """The same ranker in float32: the run's own number format may round more than the export."""
    exact = {"dtype": "float32", "scorer": "torch", "quantize": "none"}
    config = recommender.config.model_copy(update={"model": source.model.model_copy(update=exact)})
    return Recommender(config, recommender.dataset, source.adapter, recommender.name)


def _queries(recommender: Recommender, count: int) -> list[Query]:
    """Validation queries with their summaries; of test where there are none for validation."""
    for split in ("valid", "test"):
        some = list(islice(recommender.dataset.cases(split).queries(), count))
        if some:
            summaries = read_summaries(recommender.dataset.folder, (split,))
            return [
                dataclasses.replace(
                    query,
                    summary=summaries.get(query.id),
                    candidates=query.candidates[:CANDIDATES],
                )
                for query in some
            ]
    return []


def push(folder: Path, repository: str, *, public: bool = False, endpoint: str = "") -> str:
    """Uploads an exported folder to a hub as a model; the repository is made where it is missing.

    The hub's key is huggingface_hub's own: the variable HF_TOKEN, or `hf auth login`.

    Args:
        folder: What `export` wrote.
        repository: `owner/name`.
        public: Whether everybody may read a new repository.
        endpoint: The hub's address; empty: huggingface_hub's own.

    Returns:
        The address of what was uploaded.

    Raises:
        ModelError: If the hub cannot be reached, or refuses.
    """
    hub = optional("huggingface_hub", "local", "trsr push")
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    # of requests, httpx or httpx2, as the version has it
    named = (one for one in HfHubHTTPError.__mro__ if one.__name__ == "HTTPError")
    http: type[Exception] = next(named, HfHubHTTPError)
    api = hub.HfApi(endpoint=endpoint or None)
    try:
        made = api.create_repo(repository, private=not public, exist_ok=True)
        api.upload_folder(
            repo_id=made.repo_id, folder_path=folder, commit_message="Upload from trsr export"
        )
    except (http, HFValidationError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"the hub does not take {repository}: {reason}; is the name owner/name, and the key "
            "that of `hf auth login` (or in HF_TOKEN) one that may write?"
        ) from error
    return str(made)
