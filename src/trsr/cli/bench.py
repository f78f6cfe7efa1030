"""`trsr bench`: how fast this machine does each part, beside the plain way, in one run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trsr.cli.terminal import Bar, err, out, table

if TYPE_CHECKING:
    from trsr.bench import Result

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
            repeats=repeats,
            seed=seed,
            progress=bar,
        )
    _print([result], json)


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
