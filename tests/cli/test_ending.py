"""What a run ends with on the terminal, and what stopping one says."""

from __future__ import annotations

import json
import shlex
import tomllib

import polars as pl
import pytest
import typer
from pipeline_data import configured, write_data

from trsr.cli import ending, terminal
from trsr.cli.app import app
from trsr.config import load_config
from trsr.data import Dataset
from trsr.pipeline import run
from trsr.storage.run_directory import RunDirectory

SETTINGS = configured(prompts={"domain": "products"})


def made(folder, *more):
    write_data(folder, items=60)
    (folder / "mine.toml").write_text(SETTINGS)
    config = load_config(folder / "mine.toml", [f"run.folder={folder / 'run'}", *more])
    list(run(config))
    return config


def lead(*means_by_ranker, comparisons=()):
    """What the end says of a's lead over b: per-query values of a, b, …, a user a query."""
    names = "abc"[: len(means_by_ranker)]
    values = pl.DataFrame(
        [
            {"ranker": names[n], "query": f"q{q:02d}", "user": f"u{q}", "ndcg@10": value}
            for n, column in enumerate(means_by_ranker)
            for q, value in enumerate(column)
        ]
    )
    report = {
        "comparisons": comparisons,
        "rankers": {name: {"lower_bounds": []} for name in names},
        "chance": {"ndcg@10": 0.3},
    }
    return ending._lead(values, report, "ndcg@10", list(names))


def test_a_run_ends_with_what_its_own_figures_say(tmp_path):
    config = made(tmp_path, 'rank.rankers=["random", "popular", "llm_zero_shot"]')
    message = list(ending.ending(config))
    text = "\n".join(message)
    report = json.loads((config.run.folder / "report.json").read_text("utf-8"))
    means = {name: one["metrics"]["ndcg@10"]["mean"] for name, one in report["rankers"].items()}
    best = max(means, key=means.__getitem__)
    assert f"{best} has the highest ndcg@10: {means[best]:.3f}".replace("0.", ".") in text
    case = next(iter(Dataset.load(config.run.folder).cases("test")))
    user = case.query.history.user
    (line,) = [line for line in message if line.startswith("  →")]
    (taken,) = (item for item in case.query.candidates if item.id in case.relevant)
    assert taken.fields[0][1] in line
    assert f"trsr show {config.run.folder} {user}" in text
    assert f"trsr recommend {config.run.folder} {user} --ranker {best}" in text
    assert message[-1] == f"report: {config.run.folder / 'report.html'}"


def test_a_lead_is_judged_by_the_corrected_test_of_the_report():
    clear, noisy = ([0.8, 0.9, 0.7, 0.8] * 3, [0.1, 0.2, 0.1, 0.1] * 3), ([0.9, 0.2], [0.1, 0.9])
    assert "the lead is significant (p < .001 after Holm" in lead(*clear)
    assert "2 users do not show which is better" in lead(*noisy)
    assert lead([0.5, 0.5], [0.5, 0.5]) == "b, the next, reaches as much."
    # two standard errors would call this lead sure, and the report's table does not
    found = {"ranker": "b", "baseline": "a", "metric": "ndcg@10", "p_holm": 0.058}
    assert "p = .058 after Holm's correction, so 12 users do not show" in lead(
        *clear, comparisons=[found]
    )


@pytest.mark.parametrize("user", ["a b", "-rf", "$HOME;`id`", "<b>'s", "u7"])
def test_a_command_that_is_said_can_be_pasted(user):
    options = ["--ranker", "popular"]
    words = shlex.split(terminal.command("recommend", "my runs/x", user, options=options))
    assert words[:2] == ["trsr", "recommend"]
    asked = typer.main.get_command(app).get_command(None, "recommend")
    given = asked.make_context("recommend", words[2:]).params
    assert (str(given["run"]), given["who"], given["ranker"]) == ("my runs/x", user, "popular")


def test_a_stopped_job_says_in_one_line_how_to_go_on(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["/bin/trsr", "run", "my demo.toml"])
    with pytest.raises(typer.Exit) as stopped, terminal.Bar("train"):
        raise KeyboardInterrupt
    assert stopped.value.exit_code == 130
    assert capsys.readouterr().err == (
        "stopped in train; what is done is kept. Continue with: trsr run 'my demo.toml'\n"
    )


def test_summaries_that_no_ranker_reads_are_not_written(tmp_path):
    config = made(tmp_path, 'rank.rankers=["random", "popular"]')
    info = RunDirectory(config.run.folder).records()["summarize"].info
    assert info["summaries"] == 0
    assert "no ranker" in info["why"]
    assert tomllib.loads(config.to_toml())["summarize"]["strategy"] == "hierarchical"
    assert "summary of" not in "\n".join(ending.ending(config))
