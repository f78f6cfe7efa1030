"""Checks across tables: names of parts, and settings that contradict each other."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from functools import partial

from trsr.config.schema import Config
from trsr.data.settings import LISTLESS, READERS
from trsr.errors import ConfigError, TrsrError
from trsr.methods import DEFAULT, METHODS
from trsr.models.settings import BACKENDS
from trsr.rankers.settings import RANKERS, RankSettings
from trsr.registry import PluginTable, like, near
from trsr.summarize.settings import STRATEGIES


def wrong_names(config: Config) -> Iterator[str]:
    """Names of parts, metrics and domains that do not exist."""
    for key, table, more, names in _parts(config):
        known = sorted({*table.names(), *more})
        yield from (
            f"{key}: there is no {table.kind} {name!r}{near(name, known)}"
            + ("" if like(name, known) else "; if another package adds it, install that")
            for name in names
            if name not in table and name not in more
        )
    yield from _wrong_texts(config)


def packages(config: Config) -> dict[str, str]:
    """The other packages whose parts the settings name, with their versions."""
    found = sorted(filter(None, {table.package(name) for table, name in used_parts(config)}))
    return {name: version for name, _, version in (one.rpartition(" ") for one in found)}


def used_parts(config: Config) -> list[tuple[PluginTable, str]]:
    """The parts that the settings name, each with its table."""
    named = [(table, name) for _, table, _, names in _parts(config) for name in names]
    return named + [(RANKERS, name) for name in config.rank.used]


def _parts(
    config: Config,
) -> list[tuple[str, PluginTable, Collection[str], Collection[str]]]:
    """(the setting, the table of its parts, further names, those that it names)."""
    external = config.rank.external
    return [
        ("method", METHODS, (), [config.method]),
        ("data.reader", READERS, (), [config.data.reader]),
        ("summarize.strategy", STRATEGIES, (), [config.summarize.strategy]),
        ("model.backend", BACKENDS, (), [config.model.backend]),
        ("summarize.model.backend", BACKENDS, (), [config.summarizer.backend]),
        ("describe.model.backend", BACKENDS, (), [config.describer.backend]),
        ("rank.rankers", RANKERS, external, config.rank.rankers),
        *(
            (f"rank.{name}.members", RANKERS, external, config.rank.members(name))
            for name in _composed(config.rank)
        ),
        ("rank.retriever", RANKERS, (), [config.rank.retriever]),
    ]


def _wrong_texts(config: Config) -> Iterator[str]:
    """Names that are no parts: of lists, metrics and domains."""
    for name in sorted(one for one in config.rank.external if one in RANKERS):
        yield f"rank.external: {name} is a ranker of its own; give the lists another name"
    from trsr.metrics.metrics import parse_metric

    for key, check, texts in (
        ("evaluate.metrics", parse_metric, config.evaluate.metrics),
        ("prompts.domain", partial(_check_domain, config), (config.prompts.domain,)),
    ):
        for text in texts:
            try:
                check(text)
            except TrsrError as error:
                yield f"{key}: {error}"


def _check_domain(config: Config, name: str) -> None:
    """Raises ConfigError where the domain cannot be used, or lacks the style of the summaries."""
    from trsr.prompts import load_domain
    from trsr.prompts.templates import without_style

    domain, style = load_domain(name), config.prompts.style
    writing = config.summarize.strategy in STRATEGIES and config.summarize.uses_llm
    if writing and config.reads_summary(config.rank.used) and getattr(domain, style) is None:
        raise ConfigError(without_style(name, style))


def conflicts(config: Config) -> Iterator[str]:
    """Settings of several tables that contradict each other."""
    yield from _stages_wanted(config)
    if not config.data.dataset and config.data.interactions is None:
        yield "data.interactions: name the interactions' file, folder or pattern (or data.dataset)"
    asked = config.rank.with_members(*config.rank.rankers, config.rank.retriever)
    needing = sorted(config.rank.those("needs_training", asked))
    for name in needing if config.train.epochs == 0 else ():
        otherwise = "leave it out" if config.rank.traits(name).distills else "use llm_zero_shot"
        place = _named_in(config, name)
        yield f"{place}: {name} needs the trained model, but train.epochs is 0; {otherwise}"
    if config.rank.orders(config.rank.retriever):
        yield (
            "rank.retriever: name a ranker without a language model, itself or blended, such as "
            "popular, or title_search"
        )
    yield from _few_titles(config)
    if config.data.candidates == "full":
        cuts = (text.partition("@")[2] for text in config.evaluate.metrics)
        deepest = max((int(cut) for cut in cuts if cut.isdigit()), default=0)
        if deepest > config.rank.depth:
            yield f"rank.depth: lists of {config.rank.depth} places cannot tell a metric @{deepest}"
    yield from _repeated(config)
    yield from _wrong_addresses(config)
    yield from _clusterless(config)
    yield from _scoreless(config)
    yield from _no_images(config)
    yield from _no_vectors(config)
    yield from _unwritten_summaries(config)
    yield from _no_lists(config)


def _no_images(config: Config) -> Iterator[str]:
    """What looks at images where there are none, or where the model takes none."""
    described = config.method in METHODS and "describe" in METHODS.load(config.method).stages
    if not config.data.images:
        if described:
            yield f"data.images: the method {config.method} describes images; name them"
        if config.prompts.candidate_image:
            yield "prompts.candidate_image: there are no images; name them in data.images"
        return
    blind = ("openvino",)
    if described and config.describer.backend in blind:
        yield "describe.model: openvino takes text alone; use transformers or openai"
    shown = config.prompts.candidate_image and config.rank.those("uses_llm")
    if shown and config.model.backend in blind:
        yield (
            "prompts.candidate_image: the backend openvino takes text alone; use transformers, or "
            "set candidate_image to false"
        )


def _no_vectors(config: Config) -> Iterator[str]:
    """What cannot be where items stand in prompts as vectors."""
    if not config.prompts.item_vectors:
        if config.summarize.soft:
            yield (
                "summarize.strategy: soft summaries are made of item vectors; set "
                "prompts.item_vectors (4, say), or choose another strategy"
            )
        return
    off = "or set prompts.item_vectors = 0"
    if config.model.backend != "transformers":
        yield f"model.backend: {config.model.backend} reads text alone; use transformers, {off}"
    if not config.trained:
        yield (
            "prompts.item_vectors: only a trained ranker reads them; name llm in rank.rankers, and "
            f"train, {off}"
        )
    if config.prompts.candidate_image:
        yield f"prompts.candidate_image: vectors are of texts; leave it out, {off}"
    if config.train.loss == "text":
        yield f"train.loss: text learns words, and vectors are none; use answer or listwise, {off}"
    if smaller := config.rank.those("needs_compression"):
        yield f"rank.rankers: {', '.join(smaller)} reads texts; leave it out, {off}"


def _wrong_addresses(config: Config) -> Iterator[str]:
    """What is no endpoint's address: found before other stages take their hours."""
    for key, one in (("model", config.model), ("summarize.model", config.summarize.model)):
        if one is None or not one.base_url:
            continue
        asked = one.scorer == "endpoint" or one.backend == "openai"
        if asked and not one.base_url.lower().startswith(("http://", "https://")):
            yield f"{key}.base_url: give the endpoint's address, such as http://localhost:8000/v1"


def _clusterless(config: Config) -> Iterator[str]:
    """What only a cluster reads."""
    run = config.run
    if run.address and not re.fullmatch(r"[^:\s]+:\d+", run.address):
        client = "ray:// is Ray's client, which trsr does not use; " * ("//" in run.address)
        yield (
            f"run.address: {client}write HOST:PORT of the cluster's head, as `ray start --head "
            "--port=6379` has it, and give the command on a machine of the cluster"
        )
    if run.engine == "local" and (run.address or run.worker_gpus or run.worker_cpus != 1):
        yield "run.address, worker_cpus and worker_gpus are read by run.engine = 'ray' alone"


def _scoreless(config: Config) -> Iterator[str]:
    """Rankers that an endpoint cannot serve."""
    model = config.model
    used = config.rank.with_members(*config.rank.used, config.rank.retriever)
    asking = [config.rank.traits(name) for name in config.rank.those("uses_llm", used)]
    if model.scorer == "endpoint" and not model.base_url:
        yield "model.base_url: scorer = endpoint needs the address, as http://localhost:8000/v1"
    for name in ("candidate_image", "item_vectors"):
        if model.scorer == "endpoint" and getattr(config.prompts, name):
            yield f"prompts.{name}: an endpoint that scores reads text alone; leave it out"
    if model.backend != "openai":
        return
    if any(one.reads_scores and one.writes_titles for one in asking):
        yield (
            "model.backend: openai gives no log-probabilities of titles; use title_sampled, or a "
            "local backend in [model]"
        )
    elif model.scorer != "endpoint" and any(one.reads_scores for one in asking):
        yield (
            "model.backend: openai ranks with scorer = 'endpoint' alone, where the server gives "
            "log-probabilities; set it, or set openai in [summarize.model] and a local backend in "
            "[model]"
        )
    elif config.titled:
        yield (
            "train.epochs: openai cannot be trained here; set it to 0, and name in "
            "model.name a model that was tuned elsewhere, if there is one"
        )
    if config.trained:
        yield (
            "rank.rankers: openai cannot be trained here; use llm_zero_shot, or backend = "
            "'transformers' with scorer = 'endpoint', which trains here and scores there"
        )


def _few_titles(config: Config) -> Iterator[str]:
    """Titles that follow none, and a search that finds fewer than proposals are asked for."""
    used = config.rank.with_members(*config.rank.used, config.rank.retriever)
    if config.prompts.recent == 0 and (writing := config.rank.those("writes_titles", used)):
        yield (
            f"prompts.recent: {', '.join(writing)} asks for the title after recent ones; show 1 or "
            "more"
        )
    asked = config.rank.retrieve_k
    beams = config.rank.table("title_search").model_dump()["beams"]
    if config.rank.retriever == "title_search" and beams < asked:
        yield (
            f"rank.retrieve_k: {asked} proposals are asked for, and title_search finds {beams} "
            "titles; raise rank.title_search.beams, or lower retrieve_k"
        )


def _repeated(config: Config) -> Iterator[str]:
    """What stands in a list twice, or within itself."""
    if len(set(config.rank.rankers)) < len(config.rank.rankers):
        yield "rank.rankers: a ranker stands twice"
    for name in _composed(config.rank):
        members = config.rank.members(name)
        if name in config.rank.with_members(*members) or len(set(members)) < len(members):
            yield f"rank.{name}.members: {name} cannot be a member, and no member stands twice"


def _unwritten_summaries(config: Config) -> Iterator[str]:
    """Rankers of summaries where none is written, or where a ranker gets none."""
    alone = _summary_alone(config.rank)
    if alone and config.summarize.strategy == "none":
        yield (
            f"rank.rankers: {alone[0]} reads summaries, and summarize.strategy is none; name a "
            "strategy, such as recurrent, or leave it out"
        )
    if _summary_alone(config.rank.only(config.rank.retriever)):
        yield "rank.retriever: name a ranker that reads no summaries, itself or blended"


def _summary_alone(rank: RankSettings) -> list[str]:
    """The used rankers that read the summary and ask no language model."""
    return sorted({*rank.those("reads_summary")} - {*rank.those("uses_llm")})


def _composed(rank: RankSettings) -> list[str]:
    """The rankers that ask others: used ones, and those with a table of settings."""
    named = dict.fromkeys((*rank.used, *(rank.model_extra or ())))
    return [name for name in named if rank.members(name)]


def _no_lists(config: Config) -> Iterator[str]:
    """Given candidates that nobody gives. A reader that is not trsr's own may give them."""
    data = config.data
    if data.candidates != "given":
        return
    if data.reader == "table" and data.impressions is None:
        yield (
            "data.candidates: given takes lists that the data holds; name their file in "
            "data.impressions (a row a list: user, time, candidates, clicked), or sample "
            "candidates with uniform, popular or full"
        )
    elif data.reader in LISTLESS:
        yield (
            f"data.candidates: given takes lists that the data holds, and the reader {data.reader} "
            "reads none; table does with data.impressions, and mind does"
        )


def _stages_wanted(config: Config) -> Iterator[str]:
    """Settings that need a stage which the method lacks."""
    if config.method not in METHODS:
        return
    stages = METHODS.load(config.method).stages
    if "summarize" not in stages and config.reads_summary(config.rank.used):
        yield (
            f"summarize.strategy: the method {config.method} writes no summaries; set it to "
            f"'none', leave it out, or set method = {DEFAULT!r}"
        )
    if "train_title" not in stages and config.titled:
        asked = config.rank.with_members(*config.rank.used, config.rank.retriever)
        yield (
            f"rank.rankers: the method {config.method} trains no model to write titles; leave out "
            f"{', '.join(config.rank.those('writes_titles', asked))}, set train.epochs = 0, or "
            "set method = 'llm_seq_prompt'"
        )
    smaller = config.rank.those("needs_compression")
    if "compress" not in stages and smaller:
        yield (
            f"rank.rankers: the method {config.method} compresses no model; leave out "
            f"{', '.join(smaller)}, or set method = 'od_llm'"
        )
    if "encode" not in stages and config.rank.own_encoder:
        yield (
            f"rank.text_model: the method {config.method} makes no encoder of its own; name a "
            "model, such as minilm, or set method = 'llm2rec'"
        )
    if "train" not in stages and config.trained:
        yield (
            f"rank.rankers: the method {config.method} trains no language model; leave out "
            f"{', '.join(config.rank.those('needs_training'))}, or set method = {DEFAULT!r}"
        )


def _named_in(config: Config, name: str) -> str:
    """The setting that names a used ranker, by default or not."""
    rank = config.rank
    if name in rank.rankers:
        return "rank.rankers"
    asked = rank.with_members(*rank.rankers, rank.retriever)
    owner = next((one for one in asked if name in rank.members(one)), None)
    return f"rank.{owner}.members" if owner else "rank.retriever"
