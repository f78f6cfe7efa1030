"""`rank.external`: lists made elsewhere as rows of the table and as members of the blend."""

from __future__ import annotations

import csv
import functools
import json
import random
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from pipeline_data import CHEAP, configured, write_data

from trsr.cli.inspect import check_all
from trsr.config import load_config
from trsr.data import Dataset
from trsr.errors import ConfigError, DataError
from trsr.experiments.audit import audit
from trsr.pipeline import run, run_evaluate, run_stage
from trsr.progress import Silent
from trsr.rankers import RANKERS, Ranker, ScoreBatch, read_rankings
from trsr.recommender import Recommender
from trsr.storage.run_directory import RunDirectory, hash_file


def run_of(folder: Path, name: str, *changes: str) -> Path:
    own = [f"run.folder={folder / name}", "data.seed=3", "evaluate.trec=true"]
    config = load_config(folder / "mine.toml", [*own, *changes])
    list(run(config))
    return config.run.folder


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A folder with the lists of bm25, to be copied."""
    folder = tmp_path_factory.mktemp("first")
    write_data(folder, users=30, items=60)
    (folder / "mine.toml").write_text(CHEAP)
    run_of(folder, "first", 'rank.rankers=["bm25"]')
    return folder


@pytest.fixture
def made(first, tmp_path):
    """Makes a run of a name; the first one is there."""
    shutil.copytree(first, tmp_path, dirs_exist_ok=True)
    return functools.partial(run_of, tmp_path)


def row(folder: Path, ranker: str) -> pl.DataFrame:
    table = pl.read_parquet(folder / "per_query.parquet")
    return table.filter(pl.col("ranker") == ranker).drop("ranker")


def lists_of(*files: Path, ranker: str = "") -> list[str]:
    named = json.dumps([str(file) for file in files])
    return [f"rank.external.theirs.files={named}", f'rank.external.theirs.ranker="{ranker}"']


def test_another_systems_lists_are_a_row_with_the_same_values(made):
    first = made("first", 'rank.rankers=["bm25"]')
    given = lists_of(first / "run.bm25.trec")
    second = made("second", *given, 'rank.rankers=["popular", "theirs"]')
    before = row(first, "bm25")
    untied = before.filter(~pl.col("tied"))  # a TREC file makes up an order for ties
    assert untied.height > 5
    same = row(second, "theirs").filter(pl.col("query").is_in(untied["query"].implode()))
    assert same.equals(untied)
    report = json.loads((second / "report.json").read_text())
    assert any("theirs: lists that were made elsewhere" in note for note in report["notes"])
    page = (second / "report.html").read_text("utf-8")
    box = page.partition('id="warnings"')[2].partition("</section>")[0]
    assert "theirs: lists that were made elsewhere" in box
    states = {check.name: check.state for check in audit(second).checks}
    assert states["external lists"] == "warning"
    assert "external lists" not in {check.name for check in audit(first).checks}


def test_a_blend_learns_from_lists_of_two_runs_as_from_the_ranker(made):
    chosen = 'rank.rankers=["bm25", "popular"]'
    test, valid = made("test", chosen), made("valid", chosen, "rank.split=valid")
    apart = (test / "rankings.parquet", valid / "rankings.parquet")
    blend = made(
        "blend",
        *lists_of(*apart, ranker="bm25"),
        'rank.rankers=["blend"]',
        'rank.blend.members=["popular", "theirs"]',
    )
    whole = made("whole", 'rank.rankers=["blend"]', 'rank.blend.members=["popular", "bm25"]')
    weights = [
        RunDirectory(folder).records()["rank"].info["chosen"]["blend"]["weights"]
        for folder in (blend, whole)
    ]
    assert list(weights[0].values()) == pytest.approx(list(weights[1].values()), abs=1e-4)
    assert row(blend, "blend").equals(row(whole, "blend"))


def test_what_is_not_the_queries_candidates_is_refused_before_anything_is_ranked(made):
    first = made("first", 'rank.rankers=["bm25"]')
    lines = (first / "run.bm25.trec").read_text().splitlines()
    query = lines[0].split()[0]
    path = first.parent / "theirs.trec"
    for kept, said in (
        ([*lines, f"{query} Q0 other 9 -99 x"], f"of query {query} invents 1 .first: other"),
        (
            [line for line in lines if line.split()[0] != query],
            f"no list for query {query}, among 29 lists",
        ),
    ):
        path.write_text("\n".join(kept))
        with pytest.raises(DataError, match=said):
            made("second", *lists_of(path), 'rank.rankers=["popular", "theirs"]')
        assert not (first.parent / "second" / "rankings.parquet").exists()


def placed(lists: Path) -> dict[str, list[str]]:
    """Query → items, best first, in the order of a TREC file."""
    found: dict[str, list[str]] = {}
    for line in lists.read_text().splitlines():
        found.setdefault(line.split()[0], []).append(line.split()[2])
    return found


def test_what_a_list_leaves_out_ties_behind_what_it_holds(made):
    first = made("first", 'rank.rankers=["bm25"]')
    path = first.parent / "theirs.trec"
    whole = (first / "run.bm25.trec").read_text().splitlines()
    path.write_text("\n".join(line for line in whole if int(line.split()[3]) <= 3))
    both = 'rank.rankers=["popular", "theirs"]'
    folder = made("second", *lists_of(path), both)
    rankings = pl.read_parquet(folder / "rankings.parquet").filter(ranker="theirs")
    before = placed(first / "run.bm25.trec")
    for query, items, scores in rankings.select("query", "items", "scores").iter_rows():
        assert items[:3] == before[query][:3]
        assert set(items) == set(before[query])
        assert scores[2] > scores[3] == scores[-1]
    report = json.loads((folder / "report.json").read_text())
    (note,) = [one for one in report["notes"] if "leave out candidates" in one]
    assert note.startswith("theirs: 30 of its lists leave out")
    assert "(the shortest holds 3 of 7); those count as tied at the end" in note
    # reading a file says nothing of the time that the other system takes
    assert list(report["costs"]) == ["popular"]


def test_lists_of_the_first_places_blend_over_the_whole_catalog_and_over_proposals(made):
    full = ("data.candidates=full", "rank.retrieve_k=8", "model.backend=scripted")
    given = 'rank.rankers=["bm25"]'
    test = made("test", given, *full, "rank.depth=10")
    valid = made("valid", given, *full, "rank.split=valid")
    lists = lists_of(test / "rankings.parquet", valid / "rankings.parquet")
    cheap, asking = (
        ['rank.blend.members=["popular", "theirs"]'],
        [
            'rank.blend.members=["llm_zero_shot", "theirs"]',
            "model.name=scripted",
        ],
    )
    for members in (cheap, asking):
        folder = made("blend", 'rank.rankers=["theirs", "blend"]', *members, *lists, *full)
        weights = RunDirectory(folder).records()["rank"].info["chosen"]["blend"]["weights"]
        assert np.isfinite(list(weights.values())).all()
        # ten of sixty are listed, the others drawn behind them
        notes = json.loads((folder / "report.json").read_text())["notes"]
        assert any(one.startswith("theirs: 30 of its lists leave out") for one in notes)
        same = row(folder, "theirs")["ndcg@10"].to_list()
        assert same == pytest.approx(row(test, "bm25")["ndcg@10"].to_list())


@pytest.mark.parametrize("of", ["query", "user"])
@pytest.mark.parametrize("value", ["score", "rank"])
@pytest.mark.parametrize("kind", [".csv", ".tsv", ".parquet"])
def test_a_table_of_lists_is_read_by_its_columns_names(made, of, value, kind):
    first = made("first", 'rank.rankers=["bm25"]')
    rows = [line.split() for line in (first / "run.bm25.trec").read_text().splitlines()]
    columns = [one[0] if of == "query" else one[0].split("/")[1] for one in rows]
    table = pl.DataFrame(
        {
            "Item_ID": [one[2] for one in rows],
            value: [float(one[4]) if value == "score" else int(one[3]) for one in rows],
            "query" if of == "query" else "customer": columns,
        }
    )
    path = first.parent / f"theirs{kind}"
    if kind == ".parquet":
        table.write_parquet(path)
    else:
        table.write_csv(path, separator="," if kind == ".csv" else "\t")
    folder = made("second", *lists_of(path), 'rank.rankers=["theirs"]')
    rankings = pl.read_parquet(folder / "rankings.parquet")
    assert dict(rankings.select("query", "items").iter_rows()) == placed(first / "run.bm25.trec")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "query,thing,score\nq,p1,1\n",
            "columns query .or user., item, and score .or rank.; here ",
        ),
        ("query,item,score\nq,p1,high\n", "1 rows lack .*a score that is a finite number .first: "),
        ("query,item,score\nq,p1,2\nq,p1,1\n", "item p1 stands twice in the list of query q"),
        ("user,item,rank\nu1,,2\n", "1 rows lack a user, an item"),
    ],
)
def test_a_wrong_table_of_lists_says_where(made, text, said):
    first = made("first", 'rank.rankers=["bm25"]')
    path = first.parent / "theirs.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=f"theirs.csv: .*{said}"):
        made("second", *lists_of(path), 'rank.rankers=["theirs"]')
    with pytest.raises(DataError, match="gone.csv"):
        made("second", *lists_of(path.with_name("gone.csv")), 'rank.rankers=["theirs"]')


def test_a_users_list_does_not_say_which_of_two_queries_it_is_for(made):
    first = made("first", 'rank.rankers=["bm25"]')
    path = first.parent / "theirs.csv"
    rows = [line.split() for line in (first / "run.bm25.trec").read_text().splitlines()]
    lines = [f"{one[0].split('/')[1]},{one[2]},{one[4]}" for one in rows]
    path.write_text("\n".join(["user,item,score", *lines]))
    with pytest.raises(DataError, match=r"user u\d+ has the queries .* name queries in place"):
        made(
            "second",
            *lists_of(path),
            'rank.rankers=["theirs", "blend"]',
            'rank.blend.members=["popular", "theirs"]',
        )


def test_a_blend_without_lists_for_the_validation_queries_says_so(made):
    first = made("first", 'rank.rankers=["bm25"]')
    with pytest.raises(DataError, match="as the blend's member the validation queries too"):
        made(
            "second",
            *lists_of(first / "run.bm25.trec"),
            'rank.rankers=["blend"]',
            'rank.blend.members=["popular", "theirs"]',
        )


def test_which_of_a_files_rankers_is_meant_has_to_be_said(made):
    first = made("first", 'rank.rankers=["bm25", "popular"]')
    file = first / "rankings.parquet"
    with pytest.raises(ConfigError, match=r"holds lists of bm25, popular; name one in"):
        made("second", *lists_of(file), 'rank.rankers=["theirs"]')
    with pytest.raises(ConfigError, match=r"no lists of 'bm26': did you mean bm25\?"):
        made("second", *lists_of(file, ranker="bm26"), 'rank.rankers=["theirs"]')
    with pytest.raises(DataError, match=r"has a list in another file of rank.external.theirs too"):
        made("second", *lists_of(file, file, ranker="bm25"), 'rank.rankers=["theirs"]')


def test_names_and_paths_of_lists(tmp_path):
    write_data(tmp_path)
    path = tmp_path / "mine.toml"
    path.write_text(f'{CHEAP}\n[rank.external.bm25]\nfiles = ["a.trec"]\n')
    with pytest.raises(ConfigError, match=r"rank.external: bm25 is a ranker of its own"):
        load_config(path)
    path.write_text(f'{CHEAP}\n[rank.external.theirs]\nfiles = ["a.trec"]\n')
    assert load_config(path).rank.external["theirs"].files == (tmp_path / "a.trec",)
    with pytest.raises(ConfigError, match=r"no ranker 'their': did you mean theirs"):
        load_config(path, ['rank.rankers=["their"]'])
    with pytest.raises(ConfigError, match=r"rank.external.theirs.files"):
        load_config(path, ["rank.external.theirs.files=[]"])
    assert list(check_all(path, []))  # lists that are not used are not looked for
    with pytest.raises(DataError, match=r"a.trec: cannot be read"):
        list(check_all(path, ['rank.rankers=["theirs"]']))


def test_other_lists_are_ranked_anew_and_unused_ones_change_nothing(made):
    first = made("first", 'rank.rankers=["bm25"]')
    path = first.parent / "theirs.trec"
    path.write_text((first / "run.bm25.trec").read_text())
    settings = [*lists_of(path), 'rank.rankers=["popular", "theirs"]']
    before = row(made("second", *settings), "theirs")
    lines = [line.split() for line in path.read_text().splitlines()]
    path.write_text("\n".join(f"{q} Q0 {i} {r} {-float(s)} {t}" for q, _, i, r, s, t in lines))
    assert not row(made("second", *settings), "theirs").equals(before)

    plain = made("plain")
    stamp = RunDirectory(plain).records()["rank"]
    assert RunDirectory(made("plain", *lists_of(path))).records()["rank"] == stamp


def test_lists_recommend_nothing_new(made):
    first = made("first", 'rank.rankers=["bm25"]')
    given = lists_of(first / "run.bm25.trec")
    second = made("second", *given, 'rank.rankers=["popular", "theirs"]')
    recommender = Recommender.load(second, "theirs")
    valid = list(recommender.dataset.cases("valid").queries())
    with pytest.raises(DataError, match="answer only the queries that they were made for"):
        list(recommender.rank(valid))


# --- A whole run on candidate lists of one's own


GIVEN = CHEAP.replace(
    "min_history = 4", 'candidates = "given"\nimpressions = "shelves.jsonl"\nmin_history = 4'
)


@pytest.fixture
def folder(tmp_path):
    """Users are shown eight items twice, before their last interaction and before the one before.

    Two of each list are taken: the interaction's item and another one.
    """
    write_data(tmp_path, users=20)
    draw = random.Random(2)
    seen: dict[str, list[tuple[str, str]]] = {}
    with (tmp_path / "clicks.csv").open() as file:
        for row in csv.DictReader(file):
            seen.setdefault(row["customer"], []).append((row["sku"], row["when"]))
    with (tmp_path / "shelves.jsonl").open("w") as file:
        for customer, rows in seen.items():
            met = {sku for sku, _ in rows}
            others = [f"p{n}" for n in range(30) if f"p{n}" not in met]
            for sku, when in rows[-2:]:
                items = [sku, *draw.sample(others, 7)]
                shelf = {"customer": customer, "when": when, "shown": items, "bought": items[:2]}
                file.write(json.dumps(shelf) + "\n")
    (tmp_path / "mine.toml").write_text(GIVEN)
    return tmp_path


def test_lists_of_ones_own_are_ranked_and_evaluated(folder):
    config = load_config(folder / "mine.toml", [f"run.folder={folder / 'run'}"])
    assert [one.made for one in run(config)] == [True] * 5
    shelves = [json.loads(line) for line in (folder / "shelves.jsonl").read_text().splitlines()]
    last = {shelf["customer"]: shelf for shelf in shelves}
    rankings = read_rankings(folder / "run" / "rankings.parquet")
    cases = pl.read_parquet(folder / "run" / "cases.test.parquet")
    for ranker in ("random", "popular"):
        lists = {one.query: [entry.item for entry in one] for one in rankings[ranker]}
        assert set(lists) == set(cases["query"])
        for query, user, relevant in cases.select("query", "user", "relevant").iter_rows():
            assert sorted(lists[query]) == sorted(last[user]["shown"])
            assert sorted(relevant) == sorted(last[user]["bought"])
    report = json.loads((folder / "run" / "report.json").read_text())
    assert report["queries"] == 20
    # what popular ranks by: no interaction at or after a user's first held-out list
    fitted = pl.read_parquet(folder / "run" / "interactions.parquet")
    first = {shelf["customer"]: float(shelf["when"]) for shelf in reversed(shelves)}
    assert all(time < first[user] for user, time in fitted.select("user", "time").iter_rows())
    findings = [check.name for check in audit(folder / "run").findings]
    assert findings == []


def test_other_lists_are_prepared_again(folder):
    config = load_config(folder / "mine.toml", [f"run.folder={folder / 'run'}"])
    assert run_stage(config, "prepare").made
    assert not run_stage(config, "prepare").made
    path = folder / "shelves.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    assert "shelves.jsonl: another size or time of change" in run_stage(config, "prepare").why


# --- A whole run over the full catalog: proposals, their recall, and no answer among them


CONFIG = configured(
    data={"candidates": "full"},
    summarize={"block_items": 3},
    rank={"rankers": ["random", "popular", "llm_zero_shot"], "retrieve_k": 7, "depth": 20},
)


def test_cheap_rankers_rank_all_and_a_model_orders_what_the_first_stage_proposes(tmp_path):
    write_data(tmp_path, users=30, items=60)
    (tmp_path / "full.toml").write_text(CONFIG)
    folder = tmp_path / "run"
    config = load_config(tmp_path / "full.toml", [f"run.folder={folder}"])
    list(run(config))
    dataset = Dataset.load(folder)
    cases = {case.query.id: case for case in dataset.cases("test")}
    rankings = pl.read_parquet(folder / "rankings.parquet")
    retrieve_k = dict(pl.read_parquet(folder / "retrieved.parquet").iter_rows())
    counts = dict(dataset.interactions["item"].value_counts().iter_rows())
    assert set(rankings["ranker"].unique()) == {"random", "popular", "llm_zero_shot"}
    found = 0
    for ranker, query, items in rankings.select("ranker", "query", "items").iter_rows():
        met = {item.id for item in cases[query].query.history.items}
        assert not met & set(items)
        assert len(items) == (7 if ranker == "llm_zero_shot" else 20)
        if ranker == "llm_zero_shot":
            assert set(items) == set(retrieve_k[query])
            found += bool(cases[query].relevant & set(items))
            worst = min(counts.get(item, 0) for item in items)
            others = {item.id for item in cases[query].query.candidates} - set(items)
            assert max(counts.get(item, 0) for item in others) <= worst
    report = json.loads((folder / "report.json").read_text())
    first = report["retriever"]
    assert (first["ranker"], first["retrieve_k"]) == ("popular", 7)
    assert first["recall"] == found / len(cases)
    # Not all are found; what is not found has 0 and stays in the mean.
    assert 0 < found < len(cases)
    per_query = pl.read_parquet(folder / "per_query.parquet").filter(ranker="llm_zero_shot")
    assert len(per_query) == len(cases)
    assert (per_query["recall@10"] > 0).sum() == found
    assert any("recall@7" in note for note in report["notes"])
    assert not [one for one in run(config) if one.made]


@pytest.mark.parametrize("rankers", [["llm_zero_shot", "blend"], ["blend", "llm_zero_shot"]])
def test_a_blend_with_a_model_orders_proposals_whichever_stands_first(tmp_path, rankers):
    pytest.importorskip("scipy")
    write_data(tmp_path, users=30, items=60)
    (tmp_path / "full.toml").write_text(CONFIG)
    told = [
        f"rank.rankers={json.dumps(['popular', *rankers])}",
        'rank.blend.members=["popular","llm_zero_shot"]',
    ]
    list(run(load_config(tmp_path / "full.toml", [f"run.folder={tmp_path / 'run'}", *told])))
    rankings = pl.read_parquet(tmp_path / "run" / "rankings.parquet")
    sizes = {
        name: set(rankings.filter(ranker=name)["items"].list.len())
        for name in ("popular", "llm_zero_shot", "blend")
    }
    assert sizes == {"popular": {20}, "llm_zero_shot": {7}, "blend": {7}}


def test_another_first_stage_proposes_anew(tmp_path):
    pytest.importorskip("bm25s")
    write_data(tmp_path, users=30, items=60)
    (tmp_path / "full.toml").write_text(CONFIG)

    def proposed(*more):
        told = [f"run.folder={tmp_path / 'run'}", "rank.retriever=bm25", *more]
        made = [one.stage for one in run(load_config(tmp_path / "full.toml", told)) if one.made]
        return made, pl.read_parquet(tmp_path / "run" / "retrieved.parquet")["items"].to_list()

    _, before = proposed()
    # No ranker of the table reads texts: the first stage alone does.
    made, after = proposed("rank.text_words=1")
    assert "rank" in made
    assert after != before
    made, again = proposed("rank.text_words=1")
    assert not made
    assert again == after


def test_data_prepared_before_cases_told_what_was_met_is_prepared_again(tmp_path):
    write_data(tmp_path, users=30, items=60)
    (tmp_path / "full.toml").write_text(CONFIG)
    folder = tmp_path / "run"
    config = load_config(tmp_path / "full.toml", [f"run.folder={folder}"])
    run_stage(config, "prepare")
    path = folder / "cases.test.parquet"
    pl.read_parquet(path).drop("seen").write_parquet(path)
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["stages"]["prepare"]["settings"]["format of cases"]
    manifest["stages"]["prepare"]["files"][path.name] = hash_file(path)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="give `trsr run` again"):
        Dataset.load(folder).cases("test")
    assert "format of cases" in run_stage(config, "prepare").why
    assert Dataset.load(folder).cases("test").full


def test_what_cannot_work_is_told_beforehand(tmp_path):
    (tmp_path / "full.toml").write_text(CONFIG)
    with pytest.raises(ConfigError) as caught:
        load_config(
            tmp_path / "full.toml", ["rank.retriever=llm_zero_shot", "evaluate.metrics=['ndcg@50']"]
        )
    assert "without a language model" in str(caught.value)
    blended = ["rank.retriever=blend", "rank.blend.members=['popular', 'llm_zero_shot']"]
    with pytest.raises(ConfigError, match=r"rank\.retriever: .*itself or blended"):
        load_config(tmp_path / "full.toml", blended)
    load_config(tmp_path / "full.toml", ["rank.retriever=blend"])  # of cheap ones
    with pytest.raises(ConfigError) as caught:
        load_config(
            tmp_path / "full.toml", ["rank.retriever=llm_zero_shot", "evaluate.metrics=['ndcg@50']"]
        )
    assert "20 places cannot tell a metric @50" in str(caught.value)


def test_evaluating_long_lists_tells_how_far_it_is(tmp_path):
    class Told(Silent):
        def __init__(self):
            self.total, self.done, self.notes = 0, 0, []

        def begin(self, total, unit):
            self.total = total

        def advance(self, steps=1, note=""):
            self.done += steps
            self.notes.append(note)

    write_data(tmp_path, users=8, items=30)
    (tmp_path / "full.toml").write_text(CONFIG)
    settings = [f"run.folder={tmp_path / 'run'}", 'rank.rankers=["random", "popular"]']
    settings.append("evaluate.trec=true")
    config = load_config(tmp_path / "full.toml", settings)
    for stage in ("prepare", "summarize", "train", "rank"):
        run_stage(config, stage)
    told = Told()
    run_evaluate(config, told)
    lists = pl.read_parquet(tmp_path / "run" / "rankings.parquet").height
    assert told.done == told.total == 2 * lists  # their metrics, and their TREC files
    assert set(told.notes) == {
        f"{name}{work}" for name in ("random", "popular") for work in ("", ", TREC run")
    }


class Wrong(Ranker):
    """By the candidates' order; wrong in one way from the third query on."""

    how = "unknown"

    def score(self, batch):
        found = batch.blank() - np.arange(len(batch.columns))
        if self.how == "few":
            return ScoreBatch(found[:, :3])
        found[2:, -1] = np.nan
        return ScoreBatch(found)


@pytest.fixture
def wrong(tmp_path, monkeypatch):
    """Makes a run with a ranker called `wrong`, wrong in one way."""
    write_data(tmp_path, users=30, items=60)
    (tmp_path / "full.toml").write_text(CONFIG)

    def make(how, *changes):
        monkeypatch.setattr(Wrong, "how", how)
        monkeypatch.setitem(RANKERS._own, "wrong", f"{__name__}:Wrong")
        told = [f"run.folder={tmp_path / 'run'}", *changes]
        return list(run(load_config(tmp_path / "full.toml", told)))

    return make


@pytest.mark.parametrize(
    "changes",
    [["rank.rankers=['wrong']"], ["rank.rankers=['llm_zero_shot']", "rank.retriever=wrong"]],
)
@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("few", r"gave scores of the shape \(\d+, 3\) where \(\d+, \d+\) was due, .* test/"),
        ("unknown", r"query test/.*: a score is not a number"),
    ],
)
def test_a_ranker_that_scores_otherwise_than_asked_is_refused(wrong, changes, how, said):
    with pytest.raises(DataError, match=f"^the ranker wrong.*{said}"):
        wrong(how, *changes)


def test_who_is_recommended_to_is_told_of_a_wrong_ranker_too(wrong, tmp_path):
    with pytest.raises(DataError):
        wrong("few", "rank.rankers=['wrong']")
    folder = tmp_path / "run"
    (query, *_) = Dataset.load(folder).cases("test").queries()
    with pytest.raises(DataError, match=r"^the ranker wrong gave .* from query test/u"):
        list(Recommender.load(folder, "wrong").rank([query]))
