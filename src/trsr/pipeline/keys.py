"""What each stage's output depends on: settings as plain values, which the manifest records."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from trsr.config import Config
from trsr.data.cases import FULL_FORMAT
from trsr.pipeline.artifacts import SUMMARY_FORMAT
from trsr.pipeline.runner import SOURCE, fingerprint
from trsr.prompts import load_domain
from trsr.rankers.settings import RankSettings

_FORMAT = "format of summaries"


def data_seed(config: Config) -> int:
    """What the users that are kept and the candidates are drawn with."""
    return config.run.seed if config.data.seed is None else config.data.seed


def used_splits(config: Config) -> list[str]:
    """The splits whose summaries some later stage reads."""
    train = ["train"] if config.trained else []
    blended = config.rank.those("reads_summary", config.rank.asked)
    asked = config.rank.split if reads_summaries(config) else ""
    valid = blended or (train and config.train.validate_steps) or asked == "valid"
    return [*train, *(["valid"] if valid else []), *(["test"] if asked == "test" else [])]


def reads_summaries(config: Config) -> bool:
    """Whether some ranker reads summaries."""
    return bool(config.rank.those("reads_summary"))


def ranked_splits(config: Config) -> list[str]:
    """The splits whose summaries ranking reads."""
    return [split for split in used_splits(config) if split != "train"]


def data_settings(config: Config) -> dict[str, Any]:
    """The data's settings, its files as they are now, and the draw."""
    apart = {"interactions", "items", "impressions", "seed"}
    data = config.data.model_dump(mode="json", exclude=apart)
    given = config.data.candidates == "given"
    for key in () if given else ("candidates", "clicked"):  # read for given lists alone
        del data["columns"][key]
    paths = {"interactions": config.data.interactions, "items": config.data.items}
    files = fingerprint(paths | ({"impressions": config.data.impressions} if given else {}))
    own = {"data": data, SOURCE: files, "run": {"seed": data_seed(config)}}
    return own | ({"format of cases": FULL_FORMAT} if config.data.candidates == "full" else {})


def summarize_settings(config: Config) -> dict[str, Any]:
    """The strategy, the words, the model, and whose histories are summarized."""
    # what is not used: of one sample nothing is chosen
    apart = {"model"} | ({"samples"} if config.summarize.samples == 1 else set())
    apart |= {"terms"} if config.summarize.strategy != "terms" else set()
    own = config.summarize.model_dump(mode="json", exclude=apart)
    if config.summarize.strategy == "none":
        own = {"strategy": "none"}
        return {"summarize": own, "splits": used_splits(config), _FORMAT: SUMMARY_FORMAT}
    told = {"domain", "style", "fields", "summary_item_words", "summary_numbers", "summary_words"}
    told |= {"field_words"}
    return {
        "words": load_domain(config.prompts.domain).digest(config.prompts.style),
        "summarize": own,
        "prompts": config.prompts.model_dump(mode="json", include=told),
        "model": config.summarizer.meaning(),
        "splits": used_splits(config),
        _FORMAT: SUMMARY_FORMAT,
    }


def ranking_prompt_settings(config: Config) -> dict[str, Any]:
    """What the ranking model is, and what is said to it."""
    excluded = {"summary_item_words", "summary_numbers", "summary_words"}
    domain = load_domain(config.prompts.domain)
    plain = [] if config.summarized else [turn.model_dump() for turn in domain.rank_plain]
    return ({"rank_plain": plain} if plain else {}) | {
        "words": domain.digest(config.prompts.style),
        "prompts": config.prompts.model_dump(mode="json", exclude=excluded),
        "model": config.model.meaning(),
        "run": {"seed": config.run.seed},
    }


def train_settings(config: Config) -> dict[str, Any]:
    """LoRA's settings, the judge's words and the model; whether anything is trained."""
    if not config.trained:
        return {"train": {"epochs": 0}}
    # the run's own seed, named again, draws the same
    seed = None if config.train_seed == config.run.seed else config.train_seed
    own = config.train.meaning() | {"seed": seed}
    return {"train": own} | ranking_prompt_settings(config)


def draws_apart(config: Config, rank: RankSettings) -> bool:
    """Whether rankers are trained by other draws than run.seed's, on which all depends anyway."""
    return bool(rank.learning) and config.train_seed != config.run.seed


def rank_settings(config: Config) -> dict[str, Any]:
    """The used rankers' settings, and of a language model its words and how it scores."""
    own = config.rank.meaning()
    apart = draws_apart(config, config.rank)
    # The first stage is fitted too, and reads settings that no ranker of the table may read.
    first = config.rank.only(config.rank.retriever)
    own["first"] = first.meaning()
    apart = apart or draws_apart(config, first)
    if config.data.candidates == "full":
        own |= _full_settings(config)
    if config.rank.external_lists:
        own["lists"] = {
            name: {"ranker": one.ranker, SOURCE: fingerprint(dict(_numbered(one.files)))}
            for name, one in config.rank.external_lists.items()
        }
    drawn = {"train": {"seed": config.train_seed}} if apart else {}
    if not config.rank.those("uses_llm"):
        if config.rank.those("reads_summary") and config.prompts.summary_of != "own":
            own["summary_of"] = config.prompts.summary_of
        return {"rank": own, "run": {"seed": config.run.seed}} | drawn
    return {"rank": own, "scorer": config.model.scorer} | ranking_prompt_settings(config) | drawn


def _numbered(files: Iterable[Path]) -> Iterator[tuple[str, Path]]:
    return ((str(number), path) for number, path in enumerate(files))


def evaluate_settings(config: Config) -> dict[str, Any]:
    """The metrics, how a whole catalog was ranked, and whose summaries the pages show."""
    own: dict[str, Any] = {"evaluate": config.evaluate.model_dump(mode="json")}
    own["split"] = config.rank.split
    if config.prompts.summary_of != "own":
        own["prompts"] = {"summary_of": config.prompts.summary_of}
        own["run"] = {"seed": config.run.seed}
    return own | ({"rank": _full_settings(config)} if config.data.candidates == "full" else {})


def _full_settings(config: Config) -> dict[str, Any]:
    told = {"retriever", "proposals", "depth"}
    return config.rank.model_dump(mode="json", include=told)
