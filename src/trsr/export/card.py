"""The model card, in the hub's format: data, settings, metrics, prompt, licence."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w

from trsr.config import Config
from trsr.hub.sources import SMOLLM2_REPO, SMOLLM2_REVISION
from trsr.prompts import load_domain
from trsr.recommender import Recommender
from trsr.registry import optional
from trsr.report.markdown_report import template, without_paths
from trsr.storage import files
from trsr.storage.run_directory import RunDirectory

_log = logging.getLogger(__name__)

_KNOWN = {"smollm2-135m": (SMOLLM2_REPO, SMOLLM2_REVISION, "apache-2.0")}
"""Embedded models: name and revision on the hub, licence."""

_LIBRARIES = {"merged": "transformers", "gguf": "llama.cpp", "onnx": "onnxruntime"}


def base_model(config: Config) -> tuple[str, str | None]:
    """The base model's name and revision on a hub; of a folder its name alone."""
    name = config.model.name
    if name in _KNOWN:
        return _KNOWN[name][:2]
    folder = files.is_folder(Path(name).expanduser())
    return (Path(name).name if folder else name), config.model.revision


def text(recommender: Recommender, to: str, licence: str = "") -> str:
    """The card of a run's ranking model.

    Without a licence it is the base model's, where it is known.
    """
    hub = optional("huggingface_hub", "local", "the model card")
    config, run = recommender.config, RunDirectory(recommender.dataset.folder)
    name, _ = base_model(config)
    licence = licence or (_KNOWN[config.model.name][2] if config.model.name in _KNOWN else "")
    if not licence:
        _log.warning("the card names no licence: give the base model's with --license")
    records = {stage: record.info for stage, record in run.records().items()}
    metrics = _metrics(run.folder / "report.json", recommender.name)
    title = f"{name.rpartition('/')[2]} ranks {Path(config.prompts.domain).stem}"
    data = hub.ModelCardData(
        base_model=name,
        library_name=_LIBRARIES.get(to, to if to != "card" else "peft"),
        license=licence or None,
        pipeline_tag="text-ranking",
        tags=["trsr", "recommendation", "sequential-recommendation"],
        model_name=title,
        eval_results=[
            hub.EvalResult(
                task_type="text-ranking",
                dataset_type="other",
                dataset_name=_source(config),
                metric_type=metric,
                metric_value=round(value["mean"], 4),
            )
            for metric, value in metrics.items()
        ]
        or None,
    )
    domain = load_domain(config.prompts.domain)
    turns = domain.rank if config.summarized else domain.rank_plain or domain.rank
    return template("trsr.export", "card.md.jinja").render(
        head=data.to_yaml(),
        title=title,
        base=name,
        to=to,
        trained=records.get("train", {}),
        prepared=records.get("prepare", {}),
        source=_source(config),
        metrics=metrics,
        sampled=config.data.negatives,
        split=config.rank.split,
        candidates=config.data.candidates,
        digest=recommender.ranking_model[1].digest,
        turns=turns,
        answers=(domain.yes, domain.no),
        settings=_settings(recommender),
        licence=licence,
    )


def _metrics(report: Path, ranker: str) -> Mapping[str, Mapping[str, float]]:
    """The ranker's metrics with their standard errors; empty where it was not evaluated."""
    try:
        found = files.read_json(report)["rankers"][ranker]["metrics"]
        return {name: one for name, one in found.items() if one["mean"] is not None}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _source(config: Config) -> str:
    data = config.data
    return data.dataset or (data.interactions.name if data.interactions else "interactions")


def _settings(recommender: Recommender) -> str:
    """What decides the model, without paths and addresses."""
    given = recommender.portable().model_dump(mode="json", exclude_none=True)
    model = {key: one for key, one in given["model"].items() if key not in ("base_url", "key_env")}
    shown: dict[str, Any] = {
        "data": given["data"],
        "prompts": given["prompts"],
        "model": model | {"name": base_model(recommender.config)[0]},
        "summarize": {key: one for key, one in given["summarize"].items() if key != "model"},
        "train": given["train"],
    }
    return without_paths(tomli_w.dumps(shown)).strip()
