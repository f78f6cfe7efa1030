"""The command line: what it prints, its exit codes, and no traceback for what people can mend."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import version

import polars as pl
import pytest
from command_line import trsr
from pipeline_data import configured, write_data
from polars.testing import assert_frame_equal

from trsr.errors import StoreError
from trsr.recommender import RECOMMENDED, Recommender, load
from trsr.report.costs import run_figures

SCRIPTED = configured(
    data={"train_negatives": 2},
    summarize={"block_items": 3},
    rank={"rankers": ["random", "popular", "llm_zero_shot"]},
)


def test_the_version_is_reported_also_where_the_script_is_not_on_the_path(tmp_path):
    for command in (["-m", "trsr"], ["-c", "from trsr.cli import main; main()"]):
        done = subprocess.run(
            [sys.executable, *command, "--version"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout == f"trsr {version('trsr')}\n"


@pytest.fixture
def folder(tmp_path):
    write_data(tmp_path, items=60)
    (tmp_path / "mine.toml").write_text(SCRIPTED)
    return tmp_path


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder whose run is finished, and what that printed."""
    folder = tmp_path_factory.mktemp("finished")
    write_data(folder, items=60)
    (folder / "mine.toml").write_text(SCRIPTED)
    return folder, trsr("run", "mine.toml", cwd=folder)


@pytest.fixture
def ran(finished, tmp_path):
    """A copy of it."""
    return shutil.copytree(finished[0], tmp_path, dirs_exist_ok=True)


def told(done, folder):
    """What a command printed, but for its folder's name."""
    return done.stdout.replace(str(folder), "")


def test_a_run_prints_its_stages_and_the_table_and_a_second_one_skips_all(finished, ran):
    source, first = finished
    for stage in ("prepare", "summarize", "train", "rank", "evaluate"):
        assert f"{stage}: done in" in first.stderr
    assert "llm_zero_shot" in first.stdout
    assert "recall@5" in first.stdout
    second = trsr("run", "mine.toml", cwd=ran)
    assert second.stderr.count("up to date") == 5
    assert told(second, ran) == told(first, source)


def test_what_the_data_lost_is_said_once_whether_prepare_is_made_or_up_to_date(folder):
    with (folder / "clicks.csv").open("a") as log:
        log.write(",p1,7\nu1,,8\nu2,p2,\n")
    lost = "left out: 2 rows without a user or an item; 1 rows without a time"
    for _ in range(2):
        found = trsr("run", "mine.toml", cwd=folder)
        assert lost in found.stderr
        assert lost not in found.stdout
    assert f"Data: {lost}" in trsr("run", "mine.toml", "--only", "evaluate", cwd=folder).stdout


def test_a_changed_setting_makes_the_stages_below_again_and_says_so(ran):
    again = trsr("run", "mine.toml", "summarize.strategy=recurrent", cwd=ran)
    assert "prepare: up to date" in again.stderr
    assert "summarize.strategy: 'hierarchical' → 'recurrent'" in again.stderr
    assert "rank: made again, made from another summaries.test.parquet" in again.stderr


def test_a_stage_refuses_stale_parents_by_name(ran):
    refused = trsr("run", "mine.toml", "--only", "rank", "data.negatives=5", cwd=ran, code=2)
    assert "rank needs prepare (settings changed: data.negatives: 6 → 5)" in refused.stderr
    missing = trsr("run", "mine.toml", "--only", "evaluate", "run.folder=other", cwd=ran, code=2)
    assert "not made yet" in missing.stderr


def test_a_file_made_elsewhere_is_used(folder):
    import polars as pl

    trsr("run", "mine.toml", "--only", "prepare", cwd=folder)
    run = folder / "runs" / "mine"
    cases = pl.read_parquet(run / "cases.test.parquet")
    columns = {
        "query": cases["query"],
        "user": cases["user"],
        "text": ["The user likes hinges."] * len(cases),
        "covers": [3] * len(cases),
        "sources": [[]] * len(cases),
    }
    schema = {"sources": pl.List(pl.String)}
    pl.DataFrame(columns, schema_overrides=schema).write_parquet(run / "summaries.test.parquet")
    trsr("run", "mine.toml", "--only", "train", cwd=folder)
    trsr("run", "mine.toml", "--only", "rank", cwd=folder)
    shown = trsr("show", "runs/mine", cases["user"][0], cwd=folder)
    assert "The user likes hinges." in shown.stdout
    frame = pl.read_parquet(run / "summaries.test.parquet")
    frame = frame.with_columns(text=pl.lit("The user likes lamps."))
    frame.write_parquet(run / "summaries.test.parquet")
    # no training reads what is told of test cases
    assert "train: up to date" in trsr("run", "mine.toml", "--only", "train", cwd=folder).stderr
    again = trsr("run", "mine.toml", "--only", "rank", cwd=folder)
    assert "made from another summaries.test.parquet" in again.stderr
    assert "lamps." in trsr("show", "runs/mine", cases["user"][0], cwd=folder).stdout


def test_check_shows_counts_and_runs_nothing(folder):
    checked = trsr("check", "mine.toml", cwd=folder)
    assert "14" in checked.stdout
    assert not (folder / "runs").exists()


def test_check_names_no_model_that_is_not_used(folder):
    cheap = ('rank.rankers=["random"]', "summarize.strategy=none", "model.name=big")
    assert "model for ranking: none" in trsr("check", "mine.toml", *cheap, cwd=folder).stdout
    asked = trsr(
        "check", "mine.toml", 'rank.rankers=["llm_zero_shot"]', *cheap[1:], cwd=folder
    ).stdout
    assert "model for ranking: big" in asked
    assert "model for summaries: none" in asked


def test_mistakes_of_the_settings_end_with_two_and_are_reported_together(folder):
    wrong = trsr("run", "mine.toml", "train.epoch=2", "data.spilt=rows", cwd=folder, code=2)
    assert "did you mean epochs" in wrong.stderr
    assert "did you mean split" in wrong.stderr


def test_missing_files_are_named(folder):
    (folder / "clicks.csv").unlink()
    for command in ("check", "run"):
        wrong = trsr(command, "mine.toml", cwd=folder, code=2)
        assert "clicks.csv" in wrong.stderr


def test_a_model_that_is_opened_is_said_before_it_is_waited_for(ran, caplog):
    said = "opening the language model"
    assert said in trsr("recommend", "runs/mine", "u3", cwd=ran).stderr
    assert said not in trsr("recommend", "runs/mine", "u3", "--ranker", "popular", cwd=ran).stderr
    with caplog.at_level("INFO", "trsr.models"):
        Recommender.load(ran / "runs" / "mine").recommend("u3")
    assert said in caplog.text


def test_recommend_ranks_for_known_users_and_for_histories_never_seen(ran):
    known = trsr("recommend", "runs/mine", "u3", "--top", "4", cwd=ran)
    assert len(known.stdout.strip().splitlines()) == 5
    history = {"user": "new", "items": ["p1", {"id": "x1", "title": "A brass hinge"}]}
    (ran / "h.jsonl").write_text(json.dumps(history) + "\n")
    (ran / "c.jsonl").write_text('p2\n{"id": "x2", "title": "A steel hinge"}\n')
    new = trsr("recommend", "runs/mine", "h.jsonl", "--candidates", "c.jsonl", "--json", cwd=ran)
    ranked = json.loads(new.stdout)
    assert ranked["user"] == "new"
    assert {entry["item"] for entry in ranked["ranked"]} == {"p2", "x2"}
    for who in ("nobody", "nowhere.jsonl"):
        assert who in trsr("recommend", "runs/mine", who, cwd=ran, code=2).stderr


def test_recommend_ranks_only_items_with_a_value(ran):
    library = load(ran / "runs/mine")
    frame = library.catalog.frame
    titles = [dict(library.catalog[name].fields)["title"] for name in ("p5", "p7")]
    where = {"brand": ["Ajax"], "title": titles}
    words = [f"--where={name}={one}" for name, values in where.items() for one in values]
    command = ["recommend", "runs/mine", "--out", "lists.parquet", "--top", "99"]
    history = {"user": "new", "items": ["p1", "p2"]}
    (ran / "h.jsonl").write_text(json.dumps(history) + "\n")
    for who, users in ("--all", library.dataset.users), ("h.jsonl", {"new": ["p1", "p2"]}):
        trsr(*command, who, *words[:1], cwd=ran)
        expected = library.recommend(users, k=99, where={"brand": "Ajax"})
        assert_frame_equal(pl.read_parquet(ran / "lists.parquet"), expected, abs_tol=1e-9)
    (ran / "c.jsonl").write_text("p5\np7\np8\n")
    for options, items in (
        (words[1:], {"p5", "p7"}),
        (words[1:2], {"p5"}),
        (["--where=brand=ajax"], {*frame.filter(brand="Ajax")["id"]} & {"p5", "p7", "p8"}),
    ):
        trsr(*command, "u3", "--candidates", "c.jsonl", *options, cwd=ran)
        assert {*pl.read_parquet(ran / "lists.parquet")["item"]} == items
    seen = library.dataset.history("u3").items[0]
    every = f"--where=title={dict(seen.fields)['title']}"
    for option, said in (
        ("--where=brand", "--where brand: write FIELD=VALUE, such as genre=Drama"),
        ("--where=brnd=x", "where: the run's items have no field 'brnd': did you mean brand?"),
        ("--where=brand=a=b", "no item has brand = 'a=b'"),
        (every, "user 'u3' has met all 1 items that match, so none is left"),
    ):
        assert said in trsr("recommend", "runs/mine", "u3", option, cwd=ran, code=2).stderr


def test_items_are_named_by_the_field_that_prompts_begin_with(tmp_path):
    write_data(tmp_path, items=60)
    path = tmp_path / "products.jsonl"
    rows = [{"price": "9.99", **json.loads(line)} for line in path.read_text("utf-8").splitlines()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    settings = configured(prompts={"fields": ["title"]}, rank={"rankers": ["popular"]})
    (tmp_path / "mine.toml").write_text(settings)
    ended = trsr("run", "mine.toml", cwd=tmp_path).stdout
    listed = trsr("recommend", "runs/mine", "u3", "--top", "5", cwd=tmp_path).stdout
    shown = trsr("show", "runs/mine", "u3", cwd=tmp_path).stdout
    explained = repr(Recommender.load(tmp_path / "runs" / "mine").explain("u3"))
    titles = {row["title"] for row in rows}
    for text in (ended, listed, shown, explained):
        assert "9.99" not in text
        assert any(title in text for title in titles)


TABLES = {".parquet": pl.read_parquet, ".jsonl": pl.read_ndjson, ".csv": pl.read_csv}


@pytest.mark.parametrize("ending", TABLES)
def test_a_table_of_every_user_is_what_each_gets_alone(ran, ending, monkeypatch):
    monkeypatch.setattr("trsr.cli.show.EVERY", 3)  # a part of the users at a time
    path = f"lists{ending}"
    said = trsr("recommend", "runs/mine", "--all", "--top", "4", "--out", path, cwd=ran).stdout
    found = TABLES[ending](ran / path)
    recommender = load(ran / "runs/mine")
    users = recommender.dataset.users
    assert len(users) > 6
    assert {*users} == {*pl.read_csv(ran / "clicks.csv")["customer"]}
    assert found.schema.names() == RECOMMENDED.names()
    assert found["user"].unique(maintain_order=True).to_list() == users
    alone = pl.concat([recommender.recommend(one, k=4) for one in users])
    assert_frame_equal(found, alone, abs_tol=1e-9)
    assert f"{path}: {len(alone):,} items for {len(users)} users" in said
    trsr("recommend", "runs/mine", users[1], "--top", "4", "--out", path, cwd=ran)
    assert_frame_equal(TABLES[ending](ran / path), recommender.recommend(users[1], k=4))


def test_a_table_that_cannot_be_written_leaves_what_was_there(ran, monkeypatch):
    (ran / "old.csv").write_text("kept")
    for words, said in (
        ([], "--all for every user"),
        (["u1", "--all"], "--all for every user"),
        (["--all", "--out", "lists.xls"], "lists.xls: name it by one of .parquet, .csv, .jsonl"),
        (["u1", "--out", "nowhere/lists.csv"], "a folder that is there"),
        (["u1", "--json", "--out", "lists.jsonl"], "--json"),
        (["nobody", "--out", "old.csv"], "nobody"),
    ):
        assert said in trsr("recommend", "runs/mine", *words, cwd=ran, code=2).stderr
    monkeypatch.setattr(Recommender, "rank_unseen", lambda *_, **__: iter(()))
    none = trsr("recommend", "runs/mine", "--all", "--out", "old.csv", cwd=ran, code=2)
    assert "none is left" in none.stderr
    assert (ran / "old.csv").read_text() == "kept"
    assert {path.suffix for path in ran.iterdir()} == {".csv", ".jsonl", ".toml", ""}


def test_show_shows_the_whole_story_of_a_user(ran):
    shown = trsr("show", "runs/mine", "u2", cwd=ran).stdout
    for part in (
        "history of",
        "block 1",
        "summaries (hierarchical)",
        "prompt of",
        "ranked by llm_zero_shot",
    ):
        assert part in shown
    assert "nobody" in trsr("show", "runs/mine", "nobody", cwd=ran, code=2).stderr


def test_init_writes_a_configuration_that_runs_unchanged(folder):
    written = trsr("init", "clicks.csv", "products.jsonl", cwd=folder)
    assert "customer" in written.stdout
    trsr("check", "clicks.toml", cwd=folder)
    again = trsr("init", "clicks.csv", "products.jsonl", cwd=folder, code=2)
    assert "exists" in again.stderr
    asked = tomllib.loads((folder / "clicks.toml").read_text("utf-8"))["rank"]["rankers"]
    assert {"popular", "bm25", "item_knn", "sasrec_text", "llm", "blend"} == {*asked}
    asked = [name for name in asked if name not in ("llm", "sasrec_text")]  # no training here
    scripted = [
        "model.backend=scripted",
        "summarize.model.backend=scripted",
        "train.epochs=0",
        f"rank.rankers={asked}",
        'rank.blend.members=["item_knn", "llm_zero_shot"]',
    ]
    run = trsr(
        "run", "clicks.toml", *scripted, "data.min_history=4", "data.negatives=6", cwd=folder
    )
    for ranker in asked:
        assert ranker in run.stdout


def test_ls_lists_every_kind_and_hints_at_near_names(folder):
    everything = trsr("ls", cwd=folder).stdout
    for name in ("recbole", "recurrent", "transformers", "popular", "recall@k", "industrial"):
        assert name in everything
    assert "did you mean rankers" in trsr("ls", "ranker", cwd=folder, code=2).stderr


def test_get_hints_at_near_names(folder):
    assert "did you mean ml-100k" in trsr("get", "ml100k", cwd=folder, code=2).stderr


def test_two_runs_in_one_directory(folder):
    from trsr.storage.run_directory import RunDirectory

    with RunDirectory(folder / "runs" / "mine").locked():
        refused = trsr("run", "mine.toml", cwd=folder, code=2)
    assert "another trsr is writing" in refused.stderr


def test_evaluate_writes_the_report_in_every_form(folder):
    trsr("run", "mine.toml", "evaluate.trec=true", cwd=folder)
    run = folder / "runs" / "mine"
    names = {path.name for path in run.iterdir()}
    assert names >= {
        "report.html",
        "report.md",
        "table.tex",
        "qrels.trec",
        "run.llm_zero_shot.trec",
    }
    report = json.loads((run / "report.json").read_text("utf-8"))
    assert {one["ranker"] for one in report["comparisons"]} == {"random", "popular"}
    trsr("run", "mine.toml", "--only", "evaluate", cwd=folder)
    assert not (run / "qrels.trec").exists()


def test_a_report_that_is_none_is_made_again_with_a_word_why(finished, ran):
    report = ran / "runs" / "mine" / "report.json"
    for only, text in ((["--only", "evaluate"], "{}"), ([], '{"table": 1}')):
        report.write_text(text)
        again = trsr("run", "runs/mine", *only, cwd=ran)
        assert "evaluate: made again, changed since it was written: report.json" in again.stderr
        assert told(again, ran) == told(finished[1], finished[0])


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "[]",
        "null",
        "{",
        '{"table": {"header": ["a", "b"], "rows": [["c"]], "notes": []}}',
        '{"table": {"header": [], "rows": [], "notes": []}}',
        '{"table": {"header": ["a"], "rows": [["c"]], "notes": 3}}',
    ],
)
def test_the_table_of_what_is_no_report_is_refused_in_words(tmp_path, text):
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(StoreError, match=r"report\.json: not a report that trsr wrote; delete it"):
        run_figures(tmp_path)


@pytest.mark.parametrize("many", [2, 9])
def test_rankers_stand_across_where_they_are_few_and_down_where_they_are_many(tmp_path, many):
    header = ["ranker", "recall@10", "auc", "tied"]
    lines = [[f"ranker_{n}", "1", "2", "3"] for n in range(many)]
    written = {"table": {"header": header, "rows": lines, "notes": ["so"]}}
    (tmp_path / "report.json").write_text(json.dumps(written))
    found = run_figures(tmp_path)
    first, rows, notes = found.header, found.rows, found.notes
    if many == 2:
        assert first == ["ranker", "ranker_0", "ranker_1"]
        assert rows == [["recall@10", "1", "1"], ["auc", "2", "2"], ["tied", "3", "3"]]
    else:
        assert (first, rows) == (header, lines)
    assert notes[0] == "so"


def test_a_report_that_is_not_there_is_reported(tmp_path):
    with pytest.raises(StoreError, match=f"no report; give `trsr run {tmp_path}` first"):
        run_figures(tmp_path)


def test_runs_of_several_seeds_are_compared_where_the_data_has_its_own(folder):
    for seed in (0, 1):
        for name, more in (("a", ()), ("b", ("prompts.recent=1",))):
            words = ("data.seed=5", f"run.seed={seed}", f"run.folder={name}{seed}", *more)
            trsr("run", "mine.toml", *words, cwd=folder)
    runs = ("a0", "a1", "b0", "b1")
    # the scripted model answers the same under each seed, the random ranker does not
    for ranker, seeds in (("random", 2), ("llm_zero_shot", 1)):
        words = (*runs, "--seeds", "--json", "--ranker", ranker)
        pooled = json.loads(trsr("compare", *words, cwd=folder).stdout)
        named = [(one["name"], one["seeds"]) for one in pooled["comparisons"]]
        assert named == [("a0 and 1 more", seeds), ("b0 and 1 more", seeds)]
    trsr("run", "mine.toml", "run.seed=9", "run.folder=other", cwd=folder)
    refused = trsr("compare", "a0", "other", cwd=folder, code=2)
    assert "other candidates" in refused.stderr
    assert "data.seed" in refused.stderr


def test_a_summarizer_without_weights_is_not_tuned(folder):
    trsr("run", "mine.toml", "--only", "prepare", cwd=folder)
    refused = trsr("tune-summarizer", "mine.toml", "--out", "tuned", cwd=folder, code=2)
    assert "scripted has no weights here" in refused.stderr
    assert not (folder / "tuned").exists()
    assert "--out" in trsr("tune-summarizer", "mine.toml", cwd=folder, code=2).stderr
