"""`trsr bench`: how fast this machine does each part, beside the plain way, in one run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trsr.cli.terminal import Bar, err, out, table

if TYPE_CHECKING:
    from trsr.bench import Result
    from trsr.config import Config

app = typer.Typer(
    help="Measure this machine: each part beside the plain way to do it, in turn in one run.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

ConfigPath = Annotated[
    Path | None, typer.Argument(metavar="[CONFIG]", help="a TOML file, a recipe or a run directory")
]
NeededConfig = Annotated[
    Path, typer.Argument(metavar="CONFIG", help="a TOML file, a recipe or a run directory")
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[SECTION.KEY=VALUE]…", help="settings that replace the file's"),
]
Model = Annotated[
    str, typer.Option(help="the model; left out: the configuration's, else smollm2-135m")
]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps")]
BatchTokens = Annotated[
    int, typer.Option(help="most tokens in one forward pass; 0: the model's settings")
]
Repeats = Annotated[int, typer.Option(min=1, help="timed runs of each variant")]
Seed = Annotated[int, typer.Option(min=0, help="of what is drawn")]
Json = Annotated[bool, typer.Option("--json", help="one JSON object a variant")]
DataFolder = Annotated[
    Path | None,
    typer.Option(help="a folder whose folder of the configuration's name holds its data"),
]


@app.command()
def score(
    config: ConfigPath = None,
    settings: Overrides = None,
    interactions: Annotated[
        Path | None, typer.Option(help="with --items: real queries from two files")
    ] = None,
    items: Annotated[Path | None, typer.Option(help="the items' file")] = None,
    data: DataFolder = None,
    queries: Annotated[int, typer.Option(min=0, help="0: 1 of random tokens, 8 of real data")] = 0,
    candidates: Annotated[
        list[int] | None, typer.Option(min=2, help="a query (may be given again); left out: 20")
    ] = None,
    prefix: Annotated[int, typer.Option(min=1, help="random tokens: shared by a query's")] = 350,
    rest: Annotated[int, typer.Option(min=1, help="random tokens: of one candidate")] = 60,
    variant: Annotated[
        list[str] | None, typer.Option(help="an engine (may be given again); left out: all")
    ] = None,
    model: Model = "",
    dtype: Dtype = "",
    device: Device = "",
    batch_tokens: BatchTokens = 0,
    repeats: Repeats = 5,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Score candidates: random tokens, or the real queries of a configuration or two files."""
    from trsr.bench import run

    named = run.source(config, settings or [], data, interactions, items)
    with Bar("score") as bar:
        results = run.score(
            named,
            run.model_settings(named, model, dtype, device, batch_tokens),
            queries=queries,
            candidates=candidates or [20],
            prefix=prefix,
            rest=rest,
            variants=variant or [],
            repeats=repeats,
            seed=seed,
            progress=bar,
        )
    _print(results, json)


@app.command()
def train(
    cases: Annotated[int, typer.Option(min=1, help="cases a step")] = 4,
    negatives: Annotated[int, typer.Option(min=1, help="negatives of a case")] = 4,
    prefix: Annotated[int, typer.Option(min=1, help="tokens that a case's prompts share")] = 350,
    rest: Annotated[int, typer.Option(min=1, help="tokens of one candidate")] = 60,
    loss: Annotated[str, typer.Option(help="listwise or text")] = "listwise",
    model: Model = "",
    dtype: Dtype = "",
    device: Device = "",
    batch_tokens: BatchTokens = 0,
    repeats: Repeats = 5,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Make the gradient of a training step, and compare it with the plain way's."""
    from trsr.bench import run

    with Bar("train") as bar:
        result = run.train(
            run.model_settings(None, model, dtype, device, batch_tokens),
            cases=cases,
            prefix=prefix,
            negatives=negatives,
            rest=rest,
            loss=loss,
            repeats=repeats,
            seed=seed,
            progress=bar,
        )
    _print([result], json)


@app.command()
def summarize(
    config: NeededConfig,
    settings: Overrides = None,
    data: DataFolder = None,
    users: Annotated[int, typer.Option(min=1, help="summarized by trsr's engines")] = 400,
    alone_users: Annotated[int, typer.Option(min=1, help="summarized one prompt at a time")] = 4,
    batch: Annotated[
        list[int] | None,
        typer.Option(min=1, help="of transformers' own generate (may be given again); 8, 16, 32"),
    ] = None,
    model: Model = "",
    dtype: Dtype = "",
    device: Device = "",
    repeats: Repeats = 5,
    json: Json = False,
) -> None:
    """Write users' summaries, recurrent: one prompt at a time, in batches, by trsr's engines."""
    from trsr.bench import run

    named = run.Source(*_config(config, settings, data))
    with Bar("summarize") as bar:
        result = run.summarize(
            named,
            run.model_settings(named, model, dtype, device, summarizer=True),
            users=users,
            alone_users=alone_users,
            batches=batch or (8, 16, 32),
            repeats=repeats,
            progress=bar,
        )
    _print([result], json)


@app.command()
def prepare(
    interactions: Annotated[
        list[int] | None,
        typer.Option(
            min=1000, help="of a data set (may be given again); left out: 1 and 10 million"
        ),
    ] = None,
    cases: Annotated[int, typer.Option(min=0, help="most cases of a kind; 0: all")] = 0,
    csv: Annotated[bool, typer.Option("--csv", help="CSV files instead of Parquet")] = False,
    repeats: Repeats = 3,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Prepare made-up data of growing size; tells how time and memory grow."""
    from trsr.bench.prepare import bench_prepare

    with Bar("prepare") as bar:
        result = bench_prepare(
            interactions or (1_000_000, 10_000_000),
            cases=cases,
            repeats=repeats,
            seed=seed,
            format="csv" if csv else "parquet",
            progress=bar,
        )
    _print([result], json)


@app.command()
def overhead(
    config: NeededConfig,
    settings: Overrides = None,
    data: DataFolder = None,
    queries: Annotated[int, typer.Option(min=1, help="test queries")] = 50,
    repeats: Repeats = 5,
    json: Json = False,
) -> None:
    """Tell how much of the time of summarize and rank is not the model's."""
    from trsr.bench.overhead import bench_overhead

    name, loaded = _config(config, settings, data)
    with Bar("overhead") as bar:
        result = bench_overhead(name, loaded, queries=queries, repeats=repeats, progress=bar)
    _print([result], json)


@app.command("all")
def all_(
    data: Annotated[
        Path | None,
        typer.Option(help="a folder with the data of the recipes, in folders of their names"),
    ] = None,
    model: Model = "",
    dtype: Dtype = "",
    device: Device = "",
    repeats: Repeats = 3,
    queries: Annotated[int, typer.Option(min=1, help="real queries that are scored")] = 4,
    users: Annotated[int, typer.Option(min=1, help="users that are summarized")] = 48,
    interactions: Annotated[
        int, typer.Option(min=10_000, help="of the largest made-up data set")
    ] = 10_000_000,
    only: Annotated[
        list[str] | None, typer.Option(help="a bench (may be given again); left out: all")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="the page to write")] = Path(
        "docs/performance.md"
    ),
    json: Json = False,
) -> None:
    """Run every bench, or some, and write their tables into docs/performance.md."""
    from trsr.bench.page import check_page, write_page
    from trsr.bench.suite import Sizes, run_all

    sizes = Sizes(
        model, dtype, device, data, repeats, queries, users, interactions, tuple(only or ())
    )
    if only:
        check_page(output)  # before hours of measuring, not after
    results = []
    for result in run_all(sizes, Bar, lambda why: err.print(why, markup=False)):
        _print([result], json)
        results.append(result)
        write_page(output, results, sizes.command())  # now: a stop keeps what was measured
    err.print(f"wrote {output}", markup=False)


def _config(path: Path, settings: list[str] | None, data: Path | None) -> tuple[str, Config]:
    from trsr.bench.queries import config_for

    return config_for(path, settings or [], data)


def _print(results: Sequence[Result], json: bool) -> None:
    """The records on standard output; with JSON, what no key holds goes to standard error."""
    from trsr.bench.show import HEADER, rows

    for result in results:
        if json:
            for record in result.records:
                out.print(record.to_json(), markup=False)
        else:
            out.print(result.title, markup=False)
            table(HEADER, rows(result.records))
        for note in result.notes:
            (err if json else out).print(note, markup=False)
