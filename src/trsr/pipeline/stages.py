"""The work of each stage: reads earlier stages' files, calls one room, writes its own files."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import polars as pl

from trsr.config import Config
from trsr.data import Dataset
from trsr.data.cases import FULL_FORMAT
from trsr.data.dataset import DESCRIPTIONS, HELD_OUT
from trsr.data.images import FOLDER, TABLE, image_stamp
from trsr.data.preparation import located, prepare
from trsr.methods import METHODS
from trsr.metrics import AnswerKey, ItemFacts, parse_metric
from trsr.metrics import evaluate as compute
from trsr.metrics.report import Note
from trsr.pipeline.artifacts import (
    CASES,
    SPLITS,
    SUMMARIES,
    SUMMARY_FORMAT,
    adapter_of,
    cases_file,
    ranked_splits,
    run_summaries,
    summaries_file,
    summary_frame,
    used_splits,
)
from trsr.pipeline.compression import compress_ranker
from trsr.pipeline.describing import DESCRIBE
from trsr.pipeline.encoding import ENCODE
from trsr.pipeline.fitted_rankers import ranking_prompt_settings, title_prompt_settings
from trsr.pipeline.pages import write_pages
from trsr.pipeline.ranking import (
    RETRIEVED,
    check_prepared,
    full_notes,
    rank_candidates,
    retriever_report,
)
from trsr.pipeline.runner import REMARKS, SOURCE, Job, Stage, fingerprint
from trsr.pipeline.sharding import is_sharded
from trsr.pipeline.summarizing import Summarizer, summarized_in_shards
from trsr.pipeline.title_training import TRAIN_TITLE
from trsr.pipeline.training import LEARNED, learned_before, trained, trained_together
from trsr.prompts import load_domain
from trsr.rankers import read_rankings
from trsr.rankers.item_text import ENCODER, ITEM_VECTORS
from trsr.rankers.new_items import MOST_COLD
from trsr.rankers.settings import RankSettings
from trsr.recommender import (
    COMPRESSED,
    RANKERS,
    TITLE_ADAPTER,
)
from trsr.registry import PluginTable
from trsr.storage import files
from trsr.storage.run_directory import StageRecord
from trsr.training import JUDGED, chance_loss, hardly_converged, late_loss
from trsr.types import Summary

_log = logging.getLogger(__name__)

IMAGES = (TABLE, FOLDER)

CURVES = frozenset({"losses", "validations", "adapter"})
"""What the manifest leaves to `adapter/curves.jsonl`: it is to be read by people."""


def _data_settings(config: Config) -> dict[str, Any]:
    """The data's settings, its files as they are now, and the draw."""
    excluded = {"interactions", "items", "impressions", "service_log", "seed"}
    excluded |= set() if config.data.images else {"images", "max_without_image"}
    data = config.data.model_dump(mode="json", exclude=excluded)
    given = config.data.candidates == "given"
    for key in () if given else ("candidates", "clicked"):  # read for given lists alone
        data["columns"].pop(key, None)
    paths = {"interactions": config.data.interactions, "items": config.data.items}
    paths |= {"impressions": config.data.impressions} if given else {}
    paths |= {"service_log": config.data.service_log}
    sources = fingerprint(paths, tables=config.data.reader == "table")
    own: dict[str, Any] = {"data": data, SOURCE: sources, "run": {"seed": config.data_seed}}
    own |= {"image files": image_stamp(located(config.data))} if config.data.images else {}
    return own | ({"format of cases": FULL_FORMAT} if config.data.candidates == "full" else {})


def _prepare(job: Job) -> dict[str, Any]:
    settings = located(job.config.data)
    report = prepare(settings, job.out, seed=job.config.data_seed, progress=job.progress)
    files.write_json(job.out / "prepare.json", {"counts": report.counts, "lines": report.lines()})
    shown = ("users", "items", "interactions", "cases_train", "cases_valid", "cases_test")
    info = {key: report.counts.get(key, 0) for key in shown}
    return info | {"counts": report.counts, REMARKS: report.remarks()}


_FORMAT = "format of summaries"


def _summarize_settings(config: Config) -> dict[str, Any]:
    """The strategy, the words, the model, and whose histories are summarized."""
    unused = {"model", "vectors"}
    own = config.summarize.model_dump(mode="json", exclude=unused)
    own["sampling"] = config.summary_sampling.model_dump(mode="json")
    if config.summarize.strategy == "none":
        own = {"strategy": "none"}
        return {"summarize": own, "splits": used_splits(config), _FORMAT: SUMMARY_FORMAT}
    if config.summarize.soft:  # what the encoder will read
        return {
            "summarize": {key: own[key] for key in ("strategy", "block_items", "last_block")},
            "prompts": config.prompts.model_dump(
                mode="json", include={"domain", "fields", "words"}
            ),
            "splits": used_splits(config),
            _FORMAT: SUMMARY_FORMAT,
        }
    shown = {"domain", "style", "fields", "summary_item_words", "summary_numbers", "summary_words"}
    return {
        "words": load_domain(config.prompts.domain).digest(config.prompts.style),
        "summarize": own,
        "prompts": config.prompts.model_dump(mode="json", include=shown),
        "model": config.summarizer.meaning(),
        "splits": used_splits(config),
        _FORMAT: SUMMARY_FORMAT,
    }


def _summarize(job: Job) -> dict[str, Any]:
    config = job.config
    dataset = Dataset.load(job.run.folder)
    check_prepared(config, dataset)
    tables = {split: dataset.cases(split) for split in used_splits(config)}
    job.progress.begin(sum(map(len, tables.values())), "histories")
    found: dict[str, Summary] = {}
    info: dict[str, Any] = {}
    if not tables:
        info = {"why": "none is read: no ranker of rank.rankers reads summaries"}
    elif config.summarize.strategy != "none":
        if is_sharded(config):
            found, info = summarized_in_shards(job, tables)
        else:
            histories = (history for table in tables.values() for history in table.histories())
            found, info = Summarizer(config, dataset.catalog).run(histories, job.progress)
        info["empty"] = empty = sum(not one.text for one in found.values())
        if 5 * empty > len(found):  # a fifth may be new users; more is a matter of settings
            _log.warning(
                "%d of %d histories have no summary: they fill no block, or the model wrote "
                "nothing; set summarize.last_block = true, or lower summarize.block_items",
                empty,
                len(found),
            )
    for split in SPLITS:
        queries = tables[split].frame["query"] if split in tables else ()
        own = {query: found[query] for query in queries if query in found}
        files.write_parquet(summary_frame(own), job.out / summaries_file(split))
    words = [len(one.text.split(" ")) for one in found.values()]
    return info | {"summaries": len(words), "words_mean": fmean(words) if words else 0}


def _train_settings(config: Config) -> dict[str, Any]:
    """LoRA's settings, the ranking prompt's words and the model; whether anything is trained."""
    if not config.trained:
        return {"train": {"epochs": 0}}
    # the run's own seed, named again, draws the same
    seed = None if config.train_seed == config.run.seed else config.train_seed
    own = config.train.meaning() | {"seed": seed}
    if config.train.start:
        weights = config.train.start / "adapter" / "adapter_model.safetensors"
        own["start"] = files.hash_file(weights) if files.is_file(weights) else ""
    return {"train": own} | ranking_prompt_settings(config)


def _train(job: Job) -> dict[str, Any]:
    config = job.config
    if not config.trained:
        return {"steps": 0, "why": "nothing to train: train.epochs is 0, or no ranker asks it"}
    dataset = Dataset.load(job.run.folder)
    check_prepared(config, dataset)
    learned = learned_before(config, dataset)
    if learned is not None:
        files.write_parquet(learned, job.out / LEARNED)
    # items' vectors are trained in several phases, by this process
    if is_sharded(config) and not config.prompts.item_vectors:
        info = trained_together(job)
    else:
        info = trained(config, job.run, job.out, job.work, job.progress)
    frame = dataset.cases("train").frame
    sizes = frame.select(pl.col("candidates", "relevant").list.len()).rows()
    info |= _convergence(info["losses"], chance_loss(config.train.loss, sizes))
    return {key: one for key, one in info.items() if key not in CURVES}


def _compress_settings(config: Config) -> dict[str, Any]:
    """How the model is made smaller, and what calibrates it."""
    return {"compress": config.compress.model_dump(mode="json")} | ranking_prompt_settings(config)


def _compress(job: Job) -> dict[str, Any]:
    if not job.config.rank.those("needs_compression"):
        return {"why": "no ranker of rank.rankers asks the compressed model"}
    out = job.out / COMPRESSED
    files.make_folder(out)
    dataset, adapter = Dataset.load(job.run.folder), adapter_of(job.run)
    found = compress_ranker(job.config, dataset, adapter, out, job.work, job.progress)
    if "note" in found:
        _log.warning("compress: %s", found["note"])
    details = ("lost", "settings", "recovery_losses")
    return {key: one for key, one in found.items() if key not in details}


FLAG = "hardly_learned"
"""In the record of a training whose loss ended near that of a model that ranks at random."""
SHORT = "too_short_to_judge"
"""In the record of a training of too few steps to say whether it learned."""


def _convergence(losses: Sequence[float], guess: float | None) -> dict[str, Any]:
    """Whether a training's losses got below `guess`, that of equal scores for all candidates."""
    late = late_loss(losses)
    if guess is None:
        return {}
    if late is None:
        return {SHORT: True}
    found: dict[str, Any] = {"late_loss": round(late, 4), "guess_loss": round(guess, 4)}
    return found | ({FLAG: True} if hardly_converged(late, guess) else {})


def _convergence_notes(records: Mapping[str, StageRecord], rankers: Iterable[str]) -> list[str]:
    """What a reader of the table must know of a training that hardly learned, or may not have."""
    info = records["train"].info if "train" in records else {}
    asking = ", ".join(RankSettings().those("needs_training", rankers))
    if asking and info.get(FLAG):
        return [
            f"{asking}: the training hardly learned: its loss ended at {info['late_loss']:.2f}, "
            f"where a model that cannot tell candidates apart has {info['guess_loss']:.2f}. So its "
            "lists are little better than a random order. Train on more cases (data.train_users), "
            "or try another learning rate (train.learning_rate)."
        ]
    if asking and info.get(SHORT):
        steps = int(info["steps"])
        return [
            f"{asking}: the training took {steps:,} {'step' if steps == 1 else 'steps'}, too few "
            f"to tell by its loss whether it learned (from {JUDGED} on trsr can). Train on more "
            "cases (data.train_users), or set a lower train.cases_per_step."
        ]
    return []


def _cold_notes(config: Config, dataset: Dataset) -> Iterator[str]:
    """What an operator must know where too many products came in that nobody has met yet."""
    retriever = config.rank.retriever
    if config.data.service_log is None or config.rank.traits(retriever).reads_new:
        return
    cold = len(dataset.catalog) - dataset.interactions["item"].n_unique()
    if cold > MOST_COLD:
        yield (
            f"{cold:,} of {len(dataset.catalog):,} items have no interaction to learn from: "
            f"{retriever} (rank.retriever) proposes them last. One that reads texts finds them, "
            "such as text_knn or bm25."
        )


def _validation_notes(config: Config) -> Iterator[str]:
    """What a reader of figures on validation cases must know."""
    yield (
        "These are the validation cases (rank.split = valid): for choosing settings. What is "
        "chosen is to be reported by its values on the test cases."
    )
    used = [name for name in config.rank.used if config.rank.traits(name).validates]
    used += ["llm"] if config.trained and config.train.validate_steps else []
    if used:
        yield (
            f"{', '.join(used)}: settings, passes or weights are chosen on these very cases, so "
            "the values are too high, and no measure against others."
        )


_EXTERNAL = (
    "lists that were made elsewhere (rank.external). What they were fitted and chosen on, and "
    "whether they knew the answers, is not known here."
)
_UNSUMMARIZED = "they are ranked without; `trsr run` writes them."
_UNTIMED = (
    "popular_recent: the data has no times, so places in users' histories stand for them; its "
    "window is one of places, and says little of what was popular when."
)


def _train_reads(config: Config) -> tuple[str, ...]:
    """Of validation cases nothing, where the training does not look at them."""
    seen = IMAGES if config.trained and config.prompts.candidate_image else ()
    validated = config.trained and config.train.validate_steps
    return (*seen, *((cases_file("valid"), summaries_file("valid")) if validated else ()))


def _rank_reads(config: Config) -> tuple[str, ...]:
    seen = IMAGES if config.prompts.candidate_image and config.rank.those("uses_llm") else ()
    own = (ENCODER, ITEM_VECTORS) if config.rank.own_encoder else ()
    asked = config.rank.with_members(*config.rank.rankers, config.rank.retriever)
    taught = (summaries_file("train"),) if config.rank.those("distills", asked) else ()
    return (*seen, *map(summaries_file, ranked_splits(config)), *taught, *own)


def _seeded_apart(config: Config, rank: RankSettings) -> bool:
    """Whether rankers are trained with another seed than run.seed, which is in every key."""
    return bool(rank.learning) and config.train_seed != config.run.seed


def _rank_settings(config: Config) -> dict[str, Any]:
    """The used rankers' settings, and of a language model its words and how it scores."""
    own = config.rank.meaning()
    apart = _seeded_apart(config, config.rank)
    # the retriever is fitted too, and reads settings that no ranker of the table may read
    retriever = config.rank.only(config.rank.retriever)
    own["retriever settings"] = retriever.meaning()
    apart = apart or _seeded_apart(config, retriever)
    if config.data.candidates == "full":
        own |= _full_settings(config)
    if config.rank.external_lists:
        own["lists"] = {
            name: {"ranker": one.ranker, SOURCE: fingerprint(dict(_numbered(one.files)))}
            for name, one in config.rank.external_lists.items()
        }
    drawn: dict[str, Any] = {"train": {"seed": config.train_seed}} if apart else {}
    asked = (*config.rank.used, *retriever.used)
    if config.rank.those("writes_titles", asked):
        drawn["titles"] = title_prompt_settings(config)
    if not config.rank.those("pointwise") and not config.rank.those("distills", asked):
        return {"rank": own, "run": {"seed": config.run.seed}} | drawn
    return {"rank": own, "scorer": config.model.scorer} | ranking_prompt_settings(config) | drawn


def _numbered(files: Iterable[Path]) -> Iterator[tuple[str, Path]]:
    return ((str(number), path) for number, path in enumerate(files))


def _evaluate_settings(config: Config) -> dict[str, Any]:
    """The metrics, and how a whole catalog was ranked."""
    own: dict[str, Any] = {"evaluate": config.evaluate.model_dump(mode="json")}
    own["split"] = config.rank.split
    return own | ({"rank": _full_settings(config)} if config.data.candidates == "full" else {})


def _full_settings(config: Config) -> dict[str, Any]:
    """How a full catalog is ranked."""
    return config.rank.model_dump(mode="json", include={"retriever", "retrieve_k", "depth"})


def _evaluate_reads(config: Config) -> tuple[str, ...]:
    own = ("interactions.parquet",) if _beyond_accuracy(config) else ()
    return (cases_file(config.rank.split), summaries_file(config.rank.split), *own)


def _beyond_accuracy(config: Config) -> bool:
    """Whether a metric asks for more than where the right items stand."""
    return any(not parse_metric(text).family.accuracy for text in config.evaluate.metrics)


def _evaluate(job: Job) -> dict[str, Any]:
    config = job.config
    dataset = Dataset.load(job.run.folder)
    rankings = read_rankings(job.run / "rankings.parquet")
    passes = 1 + config.evaluate.trec  # metrics, and files for other tools
    job.progress.begin(passes * sum(map(len, rankings.values())), "lists")
    cases = dataset.cases(config.rank.split)
    sampled = config.data.candidates != "given" and not cases.full
    beyond = _beyond_accuracy(config)
    report = compute(
        AnswerKey(cases.frame, dataset.catalog.ids),
        {name: ranked.frame for name, ranked in rankings.items()},
        config.evaluate.metrics,
        sampled=sampled,
        drawn=config.data.candidates if sampled else "",
        items=ItemFacts(dataset.catalog.frame, dataset.interactions) if beyond else None,
        progress=job.progress,
    )
    first = retriever_report(job.run / RETRIEVED, cases, config)
    notes = [Note(text) for text in (full_notes(config, first) if cases.full else ())]
    if config.rank.split == "valid":
        notes += [Note(text, serious=True) for text in _validation_notes(config)]
    if "popular_recent" in config.rank.used and not dataset.timed:
        notes.append(Note(_UNTIMED))
    notes += [Note(f"{name}: {_EXTERNAL}", serious=True) for name in config.rank.external_lists]
    records = job.run.records()
    prepared = records["prepare"].info.get(REMARKS, []) if "prepare" in records else []
    notes += [Note(f"Data: {text}") for text in prepared]
    notes += [Note(text) for text in _cold_notes(config, dataset)]
    notes += [Note(f"Settings: {config.replaced}")] if config.replaced else []
    ranking = records["rank"].info if "rank" in records else {}
    found_by = [*ranking.get("notes", {}).items(), *ranking.get("chosen", {}).items()]
    notes += [Note(f"{name}: {one['note']}") for name, one in found_by if "note" in one]
    warnings = _convergence_notes(records, config.rank.used)
    report = report.noted([*notes, *(Note(text, serious=True) for text in warnings)])
    needed = config.reads_summary(config.rank.used)
    summaries, fit = run_summaries(dataset, (config.rank.split,), needed=needed)
    if fit.without:
        text = f"{fit.without:,} of {len(cases):,} queries have no summary: {_UNSUMMARIZED}"
        report = report.noted([Note(text, serious=True)])
    done = [name for name in METHODS.load(config.method).stages if name != EVALUATE.name]
    write_pages(job, report, dataset, summaries, rankings, done, first)
    return {"queries": report.queries}


PREPARE = Stage(
    "prepare",
    (),
    ("items.parquet", "interactions.parquet", *CASES),
    _data_settings,
    _prepare,
    writes_more=("prepare.json", HELD_OUT, TABLE, FOLDER),
)
SUMMARIZE = Stage(
    "summarize",
    ("items.parquet", DESCRIPTIONS, *CASES),
    SUMMARIES,
    _summarize_settings,
    _summarize,
    optional=True,
)
TRAIN = Stage(
    "train",
    ("items.parquet", DESCRIPTIONS, cases_file("train"), summaries_file("train")),
    ("adapter",),
    _train_settings,
    _train,
    _train_reads,
    writes_more=(LEARNED,),
)
COMPRESS = Stage(
    "compress",
    ("items.parquet", DESCRIPTIONS, cases_file("train"), summaries_file("train"), "adapter"),
    (COMPRESSED,),
    _compress_settings,
    _compress,
)
RANK = Stage(
    "rank",
    (
        *("items.parquet", DESCRIPTIONS, "interactions.parquet", *CASES),
        *("adapter", COMPRESSED, TITLE_ADAPTER),
    ),
    ("rankings.parquet", RANKERS),
    _rank_settings,
    rank_candidates,
    _rank_reads,
    writes_more=(RETRIEVED,),
)
EVALUATE = Stage(
    "evaluate",
    ("items.parquet", DESCRIPTIONS, "rankings.parquet", RETRIEVED),
    ("report.json",),
    _evaluate_settings,
    _evaluate,
    _evaluate_reads,
    writes_more=(
        *("report.html", "report.md", "table.tex", "per_query.parquet"),
        *("qrels.trec", "run.*.trec"),
    ),
    unread=(SOURCE,),
    last=True,
)
STAGES = (PREPARE, DESCRIBE, SUMMARIZE, TRAIN, COMPRESS, TRAIN_TITLE, ENCODE, RANK, EVALUATE)

STAGE_TABLE = PluginTable(
    "stage",
    "trsr.stages",
    {stage.name: f"trsr.pipeline.stages:{stage.name.upper()}" for stage in STAGES},
)
"""Each part is a `Stage`; a method names those that it has."""
