"""`trsr keep`: what a kept run still says, what it no longer holds, and what is refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import polars as pl
import pytest
from finished_runs import ITEMS, write_run

from trsr.cli import main
from trsr.errors import DataError, StaleRunError, StoreError, TrsrError
from trsr.pipeline.compare import compare
from trsr.results import keep_runs, read_plan, write_results
from trsr.store.rundir import RunDirectory, StageRecord

DATA = '[data]\ninteractions = "/home/ann/clicks.csv"\n'
MADE = {"at": "2026-11-23T01:02:03+00:00", "on": "an abacus, 2 rods", "gpu": ""}


def refuse(folder: Path, why: str) -> None:
    raise AssertionError(f"{folder} was left out: {why}")


def finished(folder: Path, recent: int = 3, **options) -> Path:
    """A run with a manifest, in which paths of its machine stand."""
    settings = options.pop("settings", DATA + f"[prompts]\nrecent = {recent}")
    write_run(folder, settings=settings, skills={"random": 0.0, "llm": recent / 2}, **options)
    usage = {f"scripted /home/ann/{name}/model": {"seconds": len(name)} for name in ("a", "of-bo")}
    info = {"seconds": 61.0, "made": MADE, "log": "/home/ann/log", "costs": [], "used": usage}
    names = ("prepare", "summarize", "train", "rank", "evaluate")
    path = folder / "cases.test.parquet"
    parents = RunDirectory(folder).hashes([path.name])
    records = {name: StageRecord({}, parents, {path.name: "0"}, info) for name in names}
    RunDirectory(folder)._write_manifest(records, [])
    return folder


def sweep_record(folder: Path, *names: str) -> str:
    """A sweep's record in which a path stands wherever one can."""
    model = str(folder / "secret" / "my-model")
    runs = [
        {"name": one, "settings": {"model.name": model}, "error": f"{model}: is not there"}
        for one in names
    ]
    return json.dumps({"runs": runs, "table": {"header": ["name"], "rows": [[model]]}})


def page_of(folder: Path, runs: Path) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "results.toml").write_text(
        '[sections.one]\ntitle = "One"\ncommand = "trsr run x.toml"\nruns = ["a", "b"]\n'
        'compare = ["ndcg@10", "recall@1"]\n'
    )
    write_results(read_plan(folder / "results.toml", runs), folder / "results.md")
    return (folder / "results.md").read_text("utf-8")


def test_the_page_of_kept_runs_is_that_of_the_runs(tmp_path):
    runs = [finished(tmp_path / "runs" / "a", 3), finished(tmp_path / "runs" / "b", 5)]
    kept = keep_runs(runs, tmp_path / "kept", refuse)
    assert kept == (tmp_path / "kept" / "a", tmp_path / "kept" / "b")
    whole = page_of(tmp_path / "one", tmp_path / "runs").splitlines()
    again = page_of(tmp_path / "two", tmp_path / "kept").splitlines()
    assert len(whole) == len(again)
    # Intervals and p-values are of draws, and these follow the order of the queries.
    drawn = [line for line in whole if "ndcg@10 |" in line or "recall@1 |" in line]
    same = [line for line, other in zip(whole, again, strict=True) if line == other]
    assert set(whole) - set(same) <= set(drawn)
    assert any("llm, recent=5" in line and "±" in line for line in same)
    assert any("1 min" in line for line in same)
    assert any("an abacus, 2 rods" in line and "2026-11-23" in line for line in same)
    ours = compare([f"{runs[1]}:llm"], baseline=f"{runs[0]}:llm").results[1].difference
    theirs = compare([f"{kept[1]}:llm"], baseline=f"{kept[0]}:llm").results[1].difference
    assert ours is not None
    assert theirs is not None
    assert theirs.mean == pytest.approx(ours.mean, abs=1e-12)
    assert theirs.p == pytest.approx(ours.p, abs=0.02)


def test_a_kept_run_holds_nobodys_data_and_no_place(tmp_path):
    run = finished(tmp_path / "runs" / "a")
    (kept,) = keep_runs([run], tmp_path / "kept", refuse)
    assert sorted(path.name for path in kept.iterdir()) == [
        "cases.test.parquet",
        "config.toml",
        "manifest.json",
        "per_query.parquet",
        "report.json",
    ]
    values, cases = (
        pl.read_parquet(kept / name) for name in ("per_query.parquet", "cases.test.parquet")
    )
    assert cases.columns == ["query", "candidates", "relevant"]
    known = {*ITEMS, *(f"u{n}" for n in range(40)), *(f"test/u{n}/3" for n in range(40))}
    for table in (values, cases):
        cells = [cell for row in table.drop("ranker", strict=False).rows() for cell in row]
        listed = [cell if isinstance(cell, list) else [cell] for cell in cells]
        told = {one for cell in listed for one in cell if isinstance(one, str)}
        assert told
        assert not told & known
        assert all(len(one) == 16 for one in told)
    # An answer's digest is not that of the item alone, which anybody could try.
    guesses = {hashlib.sha256(item.encode()).hexdigest()[:16] for item in ITEMS}
    assert not guesses & {one for cell in cases["relevant"] for one in cell}
    # Nor does the order of rows tell whose they are.
    first = values.filter(pl.col("ranker") == "llm")
    assert first["query"].is_sorted()
    whole = pl.read_parquet(run / "per_query.parquet").filter(pl.col("ranker") == "llm")
    assert first["ndcg@10"].to_list() != whole["ndcg@10"].to_list()
    assert sorted(first["ndcg@10"]) == sorted(whole["ndcg@10"])
    for name in ("config.toml", "manifest.json", "report.json"):
        text = (kept / name).read_text("utf-8")
        assert "/home/ann" not in text
        assert str(tmp_path) not in text
    # Two keys that read alike without their paths both stay.
    used = json.loads((kept / "manifest.json").read_text("utf-8"))["stages"]["rank"]["info"]["used"]
    assert sorted(one["seconds"] for one in used.values()) == [1, 5]


def test_kept_runs_that_ranked_something_else_are_still_refused(tmp_path):
    runs = [
        finished(tmp_path / "a"),
        finished(tmp_path / "b", candidates=5),
        finished(tmp_path / "c", rename="other-"),
    ]
    kept = keep_runs(runs, tmp_path / "kept", refuse)
    with pytest.raises(DataError, match="has other candidates than"):
        compare([f"{kept[1]}:llm"], baseline=f"{kept[0]}:llm")
    with pytest.raises(DataError, match="has other queries than"):
        compare([f"{kept[2]}:llm"], baseline=f"{kept[0]}:llm")
    # Of a whole run the queries have other names in any case.
    for one, other in ((kept[0], runs[0]), (runs[0], kept[0])):
        with pytest.raises(DataError, match=r"kept/a is a kept run.*trsr keep .*/a --into FOLDER"):
            compare([str(one)], baseline=str(other))


def test_of_a_sweep_what_is_finished_is_kept_and_the_rest_is_told(tmp_path, capsys, monkeypatch):
    swept = tmp_path / "swept"
    finished(swept / "a")
    finished(swept / "b", 5)
    RunDirectory(swept / "b")._write_manifest({}, ["rank"])
    (swept / "c").mkdir()
    for name, text in (("d", "config.toml"), ("d", "error.txt"), ("e", "config.toml")):
        (swept / name).mkdir(exist_ok=True)
        (swept / name / text).write_text("")
    record = json.loads(sweep_record(swept, "a", "b", "c", "d"))
    record["runs"][3]["error"] = "no case is left:\n  0 users"
    record["runs"][2]["error"] = ""
    (swept / "sweep.json").write_text(json.dumps(record))
    words = ["trsr", "keep", str(swept), "--into", str(tmp_path / "kept")]

    def command() -> int:
        monkeypatch.setattr("sys.argv", words)
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0)

    assert command() == 0
    told = capsys.readouterr()
    assert "kept 1 in" in told.out
    assert "left out 4" in told.out
    for why in (
        "b: rank was stopped",
        "c: it was not run to its end",
        "d: it failed: no case is left",
        "e: it was not run to its end",
    ):
        assert why in " ".join(told.err.split())
    assert sorted(path.name for path in (tmp_path / "kept" / "swept").iterdir()) == [
        "a",
        "sweep.json",
    ]
    # Of what is left out nothing is told, nor any path: not of what failed, nor in a mixed table.
    record = (tmp_path / "kept/swept/sweep.json").read_text("utf-8")
    (told,) = json.loads(record)["runs"]
    assert told["settings"] == {"model.name": "my-model"}
    assert "table" not in json.loads(record)
    assert "secret" not in record
    before = (tmp_path / "kept/swept/a/per_query.parquet").read_bytes()
    assert command() == 0  # again, in the same place
    assert (tmp_path / "kept/swept/a/per_query.parquet").read_bytes() == before


def test_a_run_that_failed_is_told_where_the_sweep_has_no_record(tmp_path):
    finished(tmp_path / "swept" / "a")
    failed = tmp_path / "swept" / "fails"
    failed.mkdir()
    (failed / "error.txt").write_text("Traceback")
    left_out = []
    keep_runs([tmp_path / "swept"], tmp_path / "kept", lambda path, why: left_out.append(why))
    assert left_out == [f"{failed}: it failed: see {failed / 'error.txt'}"]


def test_of_a_whole_sweep_the_table_is_kept_without_its_paths(tmp_path):
    swept = tmp_path / "swept"
    finished(swept / "a")
    (swept / "sweep.json").write_text(sweep_record(swept, "a"))
    keep_runs([swept], tmp_path / "kept", refuse)
    record = (tmp_path / "kept/swept/sweep.json").read_text("utf-8")
    assert json.loads(record)["table"] == {"header": ["name"], "rows": [["my-model"]]}
    assert "secret" not in record
    left_out = []
    (swept / "sweep.json").write_text('{"runs": [')
    keep_runs([swept], tmp_path / "kept", lambda path, why: left_out.append((path.name, why)))
    ((name, why),) = left_out
    assert name == "sweep.json"
    assert "not a sweep's record that trsr wrote" in why


def test_of_a_sweep_that_was_made_in_two_places_all_runs_are_kept(tmp_path):
    for place, names in (("one", ("a", "b")), ("two", ("b", "c"))):
        swept = tmp_path / place / "swept"
        for name in names:
            finished(swept / name, 3 if place == "one" else 5)
        record = json.loads(sweep_record(swept, *names))
        for run in record["runs"]:
            run["place"] = place
        (swept / "sweep.json").write_text(json.dumps(record))
        keep_runs([swept], tmp_path / "kept", refuse)
    record = tmp_path / "kept/swept/sweep.json"
    value = json.loads(record.read_text("utf-8"))
    told = {run["name"]: run["place"] for run in value["runs"]}
    assert told == {"a": "one", "b": "two", "c": "two"}
    assert "table" not in value  # it would be of two of the three
    # Of a copy that is gone nothing is told.
    for path in (tmp_path / "kept/swept/a").iterdir():
        path.unlink()
    keep_runs([tmp_path / "two/swept"], tmp_path / "kept", refuse)
    value = json.loads(record.read_text("utf-8"))
    assert [run["name"] for run in value["runs"]] == ["b", "c"]
    assert "table" in value
    record.write_text("{}")
    left_out = []
    keep_runs([tmp_path / "two/swept"], tmp_path / "kept", lambda path, why: left_out.append(why))
    assert "delete it and keep the sweep again" in left_out[0]
    assert record.read_text() == "{}"


def test_a_report_without_figures_is_no_report(tmp_path):
    run = finished(tmp_path / "runs" / "a")
    for text in ("{}", "[]", '{"chance": {}, "candidates": 3}', '{"chance": 1, "candidates": {}}'):
        (run / "report.json").write_text(text)
        with pytest.raises(StoreError, match=r"report.json: not a report that trsr wrote"):
            keep_runs([run], tmp_path / "kept", refuse)
    assert not (tmp_path / "kept").exists()


def test_what_cannot_be_kept_is_refused_with_the_reason(tmp_path):
    run = finished(tmp_path / "runs" / "a")
    (kept,) = keep_runs([run], tmp_path / "kept", refuse)
    for folders, into, said in (
        ([tmp_path / "nowhere"], "kept", "nowhere: there is no such run directory"),
        ([tmp_path], "kept", "there is no run in it"),
        ([run], "runs", "own place"),
        ([kept], "else", "a kept copy already"),
    ):
        with pytest.raises(StoreError, match=said):
            keep_runs(folders, tmp_path / into, refuse)
    listing = tmp_path / "list.toml"
    listing.write_text("")
    with pytest.raises(StoreError, match="list.toml: is a file; name a run directory"):
        keep_runs([listing], tmp_path / "kept", refuse)
    with pytest.raises(StoreError, match=r"cannot be written \(Not a directory\).*with --into$"):
        keep_runs([run], listing, refuse)
    pl.read_parquet(run / "cases.test.parquet").head(3).write_parquet(run / "cases.test.parquet")
    with pytest.raises(StoreError, match="changed since it was evaluated"):
        keep_runs([run], tmp_path / "kept", refuse)
    assert json.loads((kept / "report.json").read_text("utf-8"))["kept"] is True


def files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_copy_takes_the_place_of_nothing_but_an_older_copy(tmp_path):
    one, other = finished(tmp_path / "one" / "base"), finished(tmp_path / "demo" / "base", 5)
    swept = tmp_path / "swept"
    finished(swept / "a")
    (swept / "sweep.json").write_text('{"runs": []}')
    whole = tmp_path / "more" / "swept"
    finished(whole / "b")
    for name in ("sweep.json", "sweep.md"):
        (whole / name).write_text("{}")
    notes = tmp_path / "mine" / "base"
    notes.mkdir(parents=True)
    (notes / "notes.txt").write_text("mine")
    before = files(tmp_path)
    for folders, into, said in (
        ([one], "demo", r"demo/base: there are files that are no kept copy.*--into"),
        ([one], "mine", r"mine/base: there are files that are no kept copy.*--into"),
        ([one, other], "kept", r"one/base and .*demo/base: both would be kept in .*--into"),
        ([swept], ".", "own place"),
        ([swept], "more", r"more/swept: there is a sweep that is no kept copy.*--into"),
    ):
        with pytest.raises(StoreError, match=said):
            keep_runs(folders, tmp_path / into, refuse)
    assert files(tmp_path) == before
    (kept,) = keep_runs([one, tmp_path / "demo" / ".." / "one" / "base"], tmp_path / "kept", refuse)
    told = files(kept)
    (kept / "per_query.parquet").unlink()  # as where the copying was stopped
    keep_runs([one], tmp_path / "kept", refuse)
    assert files(kept).keys() == told.keys()


@pytest.mark.parametrize("name", ["report.json", "per_query.parquet", "cases.test.parquet"])
def test_a_changed_copy_is_refused(tmp_path, name):
    (copy,) = keep_runs([finished(tmp_path / "runs" / "a")], tmp_path / "kept", refuse)
    compare([f"{copy}:llm", f"{copy}:random"])
    path = copy / name
    if name == "report.json":
        path.write_text(path.read_text("utf-8").replace("{", "{ ", 1))
    else:
        table = pl.read_parquet(path)
        table.with_columns(pl.col("user" if "user" in table.columns else "query")).write_parquet(
            path, compression="uncompressed"
        )
    with pytest.raises(StaleRunError, match=rf"{name}: is not the file that `trsr keep` wrote"):
        compare([f"{copy}:llm", f"{copy}:random"])
    # an older trsr noted nothing of its copies
    manifest = json.loads((copy / "manifest.json").read_text("utf-8"))
    del manifest["kept"]
    (copy / "manifest.json").write_text(json.dumps(manifest))
    compare([f"{copy}:llm", f"{copy}:random"])


def test_a_run_that_calls_itself_a_copy_is_still_held_to_its_manifest(tmp_path):
    run = finished(tmp_path / "a")
    directory = RunDirectory(run)
    names = ["per_query.parquet", "report.json", "cases.test.parquet"]
    hashes = directory.hashes(names)
    records = directory.records()
    own = StageRecord({}, {"cases.test.parquet": hashes.pop("cases.test.parquet")}, hashes, {})
    directory._write_manifest(records | {"evaluate": own}, [])
    compare([f"{run}:llm", f"{run}:random"])
    report = json.loads((run / "report.json").read_text("utf-8"))
    (run / "report.json").write_text(json.dumps(report | {"kept": True}))
    with pytest.raises(StaleRunError, match=r"report\.json: is not the file that evaluate wrote"):
        compare([f"{run}:llm", f"{run}:random"])


def _no_lists(copy: Path) -> None:
    path = copy / "cases.test.parquet"
    pl.read_parquet(path).with_columns(pl.col("candidates").list.join(" ")).write_parquet(path)


def _no_user(copy: Path) -> None:
    path = copy / "per_query.parquet"
    pl.read_parquet(path).with_columns(user=pl.lit(None, pl.String)).write_parquet(path)


def _no_seed(copy: Path) -> None:
    with (copy / "config.toml").open("a") as file:
        file.write('[train]\nseed = "abc"\n')


def _no_sizes(copy: Path) -> None:
    report = json.loads((copy / "report.json").read_text("utf-8"))
    report["candidates"]["fewest"] = None
    (copy / "report.json").write_text(json.dumps(report))


def _no_costs(copy: Path) -> None:
    manifest = json.loads((copy / "manifest.json").read_text("utf-8"))
    manifest["stages"]["rank"]["info"]["costs"] = {"llm": {"zork": 3}}
    (copy / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_no_lists, r"cases\.test\.parquet: the column candidates holds"),
        (_no_user, r"per_query\.parquet: the column user has an empty value"),
        (_no_seed, r"seed"),
        (_no_sizes, r"report\.json: not a report that trsr wrote"),
        (_no_costs, r"manifest\.json: costs that trsr did not write"),
    ],
)
def test_a_damaged_copy_without_a_note_is_told_in_words(tmp_path, damage, said):
    runs = [finished(tmp_path / "runs" / "a", 3), finished(tmp_path / "runs" / "b", 5)]
    for copy in keep_runs(runs, tmp_path / "kept", refuse):
        manifest = json.loads((copy / "manifest.json").read_text("utf-8"))
        del manifest["kept"]
        (copy / "manifest.json").write_text(json.dumps(manifest))
    damage(tmp_path / "kept" / "a")
    with pytest.raises(TrsrError, match=said):
        page_of(tmp_path / "page", tmp_path / "kept")
