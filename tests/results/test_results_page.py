"""`trsr results`: what a reader finds on the page, what is kept of it, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path

import polars as pl
import pytest
from finished_runs import write_run
from pipeline_data import write_data

from trsr.cli import main
from trsr.errors import ConfigError, DataError, StoreError
from trsr.pipeline.compare import compare
from trsr.results import read_plan, write_results
from trsr.settings import digest
from trsr.store.rundir import RunDirectory, StageRecord

BASE = """
[data]
interactions = "clicks.csv"
items = "products.jsonl"
min_history = 4
negatives = 6

[model]
backend = "scripted"
name = "scripted"

[summarize]
block_items = 3

[train]
epochs = 0

[rank]
rankers = ["random", "popular", "untuned"]
"""

GRID = """
base = "base.toml"

[sweep]
folder = "swept"

[set]
evaluate.metrics = ["recall@3", "ndcg@10", "auc"]

[grid]
summarize.strategy = ["none", "recurrent"]
"""

DATA = '[data]\ninteractions = "clicks.csv"\n'


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A folder with a finished sweep: two strategies, three rankers, a scripted model."""
    from trsr.sweep import read_plan as read_sweep
    from trsr.sweep import sweep

    folder = tmp_path_factory.mktemp("results")
    write_data(folder, users=40, items=40)
    (folder / "base.toml").write_text(BASE)
    (folder / "grid.toml").write_text(GRID)
    with pytest.MonkeyPatch.context() as patch:
        # A judge whose answer hangs on every word of the prompt, the summary included.
        patch.setattr("trsr.llm.scripted.common_words", by_lot)
        assert not sweep(read_sweep(folder / "grid.toml")).failed
    return folder


def by_lot(prompt, answer) -> float:
    return int(digest([str(prompt), answer])[:8], 16) / 2**30


def plan_of(folder, text, runs=None):
    (folder / "results.toml").write_text(text)
    return read_plan(folder / "results.toml", runs)


def page_of(folder, text, runs=None, **options) -> str:
    write_results(plan_of(folder, text, runs), folder / "results.md", **options)
    return (folder / "results.md").read_text("utf-8")


def tables(text: str) -> list[list[list[str]]]:
    """The page's tables, cells stripped, the line below the header left out."""
    found: list[list[list[str]]] = []
    before = ""
    for line in text.splitlines():
        if line.startswith("|") and not line.startswith("|---"):
            if not before.startswith("|"):
                found.append([])
            found[-1].append([cell.strip() for cell in line[1:-1].split(" | ")])
        before = line
    return found


def section(runs, name="one", **more) -> str:
    lines = [f"[sections.{name}]", f'title = "Title of {name}"', 'command = "trsr run x.toml"']
    lines += [f"runs = {json.dumps(runs)}"]
    return "\n".join([*lines, *(f"{key} = {json.dumps(value)}" for key, value in more.items())])


SWEPT = """
[sections.grid]
title = "Made-up clicks"
sweep = "{file}"
about = "What was bought, by nobody."
compare = ["auc", "ndcg@10"]
baseline = "popular"
"""


def test_a_section_tells_the_sweep_whole(swept, tmp_path):
    text = page_of(tmp_path, SWEPT.format(file=swept / "grid.toml"))
    assert "## Made-up clicks" in text
    assert "`trsr sweep grid.toml`" in text
    assert "What was bought, by nobody." in text
    main_table, differences, stages = tables(text)
    run = swept / "swept" / "strategy=recurrent"
    report = json.loads((run / "report.json").read_text())

    # What the settings change nothing for stands once, the rest once for each of them.
    assert [row[0] for row in main_table] == [
        "",
        "random",
        "popular",
        "untuned, strategy=none",
        "untuned, strategy=recurrent",
        "chance",
    ]
    assert main_table[0][1:5] == ["recall@3", "ndcg@10", "auc", "tied"]
    for column, metric in enumerate(("recall@3", "ndcg@10", "auc"), start=1):
        cells = [row[column] for row in main_table[1:-1]]
        means = [float(re.findall(r"[\d.]+", cell)[0]) for cell in cells]
        assert [cell.startswith("**") for cell in cells] == [mean == max(means) for mean in means]
        told = report["rankers"]["untuned"]["metrics"][metric]
        assert means[-1] == pytest.approx(told["mean"], abs=6e-4)
        assert f"±{told['se']:.3f}".replace("0.", ".") in cells[-1]
        assert float(main_table[-1][column]) == pytest.approx(report["chance"][metric], abs=6e-4)

    assert "Differences to popular" in text
    assert [row[:2] for row in differences[1:4]] == [
        ["random", "auc"],
        ["untuned, strategy=none", "auc"],
        ["untuned, strategy=recurrent", "auc"],
    ]
    same = compare([f"{run}:untuned"], baseline=f"{run}:popular", metrics=["auc"]).table().rows[1]
    assert differences[3][2:5] == list(same[3:6])
    assert "after Holm's correction for the 6 comparisons" in text

    assert stages[0] == [
        "",
        *("prepare", "summarize", "train", "rank", "evaluate"),
        "all",
        *stages[0][7:],
    ]
    assert [row[0] for row in stages[1:]] == ["strategy=none", "strategy=recurrent"]
    assert stages[2][1] == "copied"
    assert "texts" in stages[2][2]
    assert "tokens" in stages[2][4]
    assert " s" in stages[1][6]


def test_a_section_tells_where_when_and_with_how_many_seeds(swept, tmp_path):
    text = page_of(tmp_path, SWEPT.format(file=swept / "grid.toml"))
    made = RunDirectory(swept / "swept" / "strategy=none").records()["rank"].info["made"]
    (facts,) = [line for line in text.splitlines() if " · " in line]
    assert made["on"] in facts
    assert "no GPU" in facts or made["gpu"]
    assert made["at"][:10] in facts
    assert "one seed (0)" in facts
    assert '7 candidates each (`data.candidates = "uniform"`)' in facts
    assert str(tmp_path) not in text
    assert str(swept) not in text
    # What the runs' own reports warn of is said once.
    assert text.count("Krichene and Rendle") == 1


def test_a_section_tells_the_metric_by_length_of_history(tmp_path):
    runs = tmp_path / "runs"
    path = write_run(runs / "one", settings=DATA) / "per_query.parquet"
    table = pl.read_parquet(path)
    lengths = {f"test/u{n}/3": 5 + n for n in range(40)}
    table = table.with_columns(
        pl.col("query").replace_strict(lengths, return_dtype=pl.Int64).alias("history")
    )
    table.write_parquet(path)
    asked = {"baseline": "random", "compare": ["recall@1", "ndcg@10"]}
    text = page_of(tmp_path, section(["one"], history_bins=[25, 10, 45], **asked), runs)
    groups = tables(text)[2]

    # A bin that no history falls into is no column.
    assert groups[0] == ["", "5 to 9 (5 queries)", "10 to 24 (15 queries)", "25 to 44 (20 queries)"]
    assert "recall@1 by length of history, with the difference to random:" in text
    parts = [(5, 9), (10, 24), (25, 44)]
    for column, (low, high) in enumerate(parts, start=1):
        own = table.filter(pl.col("history").is_between(low, high))
        means = [
            own.filter(pl.col("ranker") == one)["recall@1"].mean() for one in ("random", "llm")
        ]
        random, llm = (row[column] for row in groups[1:])
        assert float(random) == pytest.approx(means[0], abs=6e-4)
        mean, difference, interval = re.fullmatch(r"(\S+); (\S+) \((.+ to .+)\)", llm).groups()
        assert float(mean) == pytest.approx(means[1], abs=6e-4)
        told = float(difference.replace("\N{MINUS SIGN}", "-"))
        assert told == pytest.approx(means[1] - means[0], abs=1.1e-3)
        assert interval
    # Without bins there is no such table.
    assert "by length of history" not in page_of(tmp_path, section(["one"], **asked), runs)


def test_groups_are_the_same_whichever_run_is_named_first(tmp_path):
    runs = tmp_path / "runs"
    for name, cut in (("whole", 100), ("cut", 8)):
        settings = f"{DATA}[prompts]\nrecent = {cut}"
        path = write_run(runs / name, settings=settings) / "per_query.parquet"
        lengths = {f"test/u{n}/3": min(5 + n, cut) for n in range(40)}
        table = pl.read_parquet(path).with_columns(
            pl.col("query").replace_strict(lengths, return_dtype=pl.Int64).alias("history")
        )
        if name == "cut":
            better = pl.when(pl.col("ranker") == "llm").then(1.0).otherwise(pl.col("ndcg@10"))
            table = table.with_columns(better.alias("ndcg@10"))
        table.write_parquet(path)
    asked = {"baseline": "random", "history_bins": [7, 25]}
    for names in (["whole", "cut"], ["cut", "whole"]):
        text = page_of(tmp_path, section(names, **asked), runs)
        assert tables(text)[2][0][1:] == [
            "5 to 6 (2 queries)",
            "7 to 24 (18 queries)",
            "25 to 44 (20 queries)",
        ]


def test_groups_begin_at_a_length(tmp_path):
    with pytest.raises(ConfigError, match=r"one\.history_bins\.0: .* greater than or equal to 1 "):
        plan_of(tmp_path, section(["one"], name="one", history_bins=[0, 5]))
    with pytest.raises(ConfigError, match=r"history_bins: a length stands twice"):
        plan_of(tmp_path, section(["one"], history_bins=[5, 5]))


def test_unknown_settings_of_a_page_are_told_in_our_words(tmp_path):
    with pytest.raises(ConfigError) as told:
        plan_of(tmp_path, section(["one"], baselin="x", zzz=1, history_bins="many"))
    said = str(told.value)
    assert ".baselin: unknown setting: did you mean baseline?" in said
    assert ".zzz: unknown setting" in said
    assert ".history_bins: input should be a valid tuple (given: 'many')" in said
    assert "Extra inputs" not in said


def test_runs_that_differ_by_seed_are_one_row_with_their_spread(tmp_path):
    for seed in range(3):
        settings = f"{DATA}[train]\nseed = {seed}"
        write_run(tmp_path / "runs" / f"s{seed}", seed=0, settings=settings)
        # The trained ranker's lists differ by seed, the other one's do not.
        path = tmp_path / "runs" / f"s{seed}" / "per_query.parquet"
        own = pl.read_parquet(path).with_columns(
            pl.when(pl.col("ranker") == "llm")
            .then(pl.col("recall@1") * (1 - 0.1 * seed))
            .otherwise(pl.col("recall@1"))
            .alias("recall@1")
        )
        own.write_parquet(path)
    text = page_of(tmp_path, section(["s0", "s1", "s2"]), tmp_path / "runs")
    header, random, llm, _ = tables(text)[0]
    at = header.index("recall@1")
    assert [row[header.index("seeds")] for row in (random, llm)] == ["1", "3"]
    assert "(±" not in random[at]
    assert re.fullmatch(r"\**\.\d{3} ±\.\d{3} \(±\.\d{3}\)\**", llm[at])
    assert "3 seeds (0, 1, 2)" in text
    assert "standard deviation over seeds" in text
    # What the differences are for is said of seeds where they are pooled, else of these trainings.
    assert "the variance over users and over seeds" in text
    assert "another training may differ" not in text
    alone = page_of(tmp_path, section(["s0"], history_bins=[5]), tmp_path / "runs")
    assert alone.count("over users, for these trainings: another training may differ") == 1
    assert alone.count("within the group, over users for these trainings, not corrected") == 1


def test_a_setting_that_no_ranker_of_a_run_reads_names_no_row(tmp_path):
    for name, recent, share in (("a", 1, 0.1), ("b", 2, 0.2)):
        settings = (
            f"{DATA}[prompts]\nrecent = {recent}\n"
            f'[rank]\nrankers = ["random", "llm"]\n[rank.bert4rec]\nmask_share = {share}'
        )
        skills = {"random": 0.0, "llm": float(recent)}
        write_run(tmp_path / "runs" / name, skills=skills, settings=settings)
    text = page_of(tmp_path, section(["a", "b"]), tmp_path / "runs")
    assert "llm, recent=1 " in text
    assert "mask_share" not in text


def test_a_metric_that_is_named_twice_is_one(tmp_path):
    write_run(tmp_path / "runs" / "a", settings=DATA)
    twice = {"metrics": ["recall@1"] * 2, "compare": ["recall@1", "ndcg@10", "recall@1"]}
    text = page_of(tmp_path, section(["a"], **twice), tmp_path / "runs")
    main_table, differences, *_ = tables(text)
    assert main_table[0].count("recall@1") == 1
    assert [row[1] for row in differences[1:]] == ["recall@1", "ndcg@10"]
    assert "Holm's correction for the 2 comparisons" in text


def test_runs_that_only_add_rankers_stand_together(tmp_path):
    runs = tmp_path / "runs"
    every = {"popular": 1.0, "bm25": 0.5, "ease": 2.0, "llm": 3.0}

    def made(name, *rankers, seed=0):
        told = f"{DATA}[train]\nseed = {seed}\n[rank]\nrankers = {json.dumps(rankers)}"
        skills = {one: every[one] + (seed if one == "llm" else 0) for one in rankers}
        write_run(runs / name, skills=skills, settings=told)

    made("one/base", "popular", "bm25")
    made("two/base", "popular", "ease")
    made("three", "llm")
    made("four", "llm", "popular", seed=2)
    every["ease"] = 0.0
    made("other", "ease")
    # Neither one run made twice, nor told apart by what either does not read.
    names = ["one/base", "two/base", "three"]
    text = page_of(tmp_path, section(names), runs)
    assert [row[0] for row in tables(text)[0]] == [
        "",
        *("popular", "bm25", "ease", "llm"),
        "chance",
    ]
    text = page_of(tmp_path, section([*names, "four"]), runs)
    header, *rows = tables(text)[0]
    # A ranker of several runs of one seed counts once for it.
    seeds = {row[0]: row[header.index("seeds")] for row in rows[:-1]}
    assert seeds == {"popular": "1", "bm25": "1", "ease": "1", "llm": "2"}
    with pytest.raises(ConfigError, match="same settings and seed, but other values of ease"):
        page_of(tmp_path, section(["two/base", "other"]), runs)


def test_stages_of_runs_without_other_settings_are_told_under_their_folders(tmp_path):
    for name, ranker in (("one", "popular"), ("two", "random")):
        folder = tmp_path / "runs" / name / "base"
        settings = f'{DATA}[rank]\nrankers = ["{ranker}"]'
        write_run(folder, skills={ranker: 1.0}, settings=settings)
        record = StageRecord({}, {}, {}, {"seconds": 1})
        RunDirectory(folder)._write_manifest({"rank": record, "evaluate": record}, [])
    text = page_of(tmp_path, section(["one/base", "two/base"]), tmp_path / "runs")
    assert [row[0] for row in tables(text)[2]] == ["", "one/base", "two/base"]


def test_a_training_that_went_on_is_told_whole_also_where_its_record_counts_the_last_sitting(
    tmp_path,
):
    write_run(tmp_path / "runs/a", settings=DATA)
    train, rest = ({"seconds": 61.0, "step_seconds": 305.0}, {"seconds": 1.0})
    records = {"train": StageRecord({}, {}, {}, train), "rank": StageRecord({}, {}, {}, rest)}
    RunDirectory(tmp_path / "runs/a")._write_manifest(records | {"evaluate": records["rank"]}, [])
    header, row = tables(page_of(tmp_path, section(["a"]), tmp_path / "runs"))[-1]
    told = dict(zip(header, row, strict=True))
    assert (told["train"], told["all"]) == ("5 min 5 s", "5 min 7 s")


def test_what_is_long_stands_on_pages_of_its_own_where_that_is_asked(tmp_path):
    runs = tmp_path / "runs"
    write_run(runs / "a", skills={"popular": 0.2, "llm": 2.0}, settings=DATA)
    record = StageRecord({}, {}, {}, {"seconds": 61.0})
    RunDirectory(runs / "a")._write_manifest({"rank": record, "evaluate": record}, [])
    whole = tables(page_of(tmp_path, section(["a"], baseline="popular"), runs))
    apart = 'details = "more"\n' + section(["a"], baseline="popular", compare=["ndcg@10"])
    page = page_of(tmp_path, apart, runs)
    (main,) = tables(page)
    assert "[more/one.md](more/one.md)" in page
    rows = {row[0]: dict(zip(main[0], row, strict=True)) for row in main[1:]}
    detail = (tmp_path / "more" / "one.md").read_text("utf-8")
    assert "(../results.md)" in detail
    differences, stages = tables(detail)
    name, metric, difference, *_, mark = differences[1]
    assert (name, metric, mark) == ("llm", "ndcg@10", "↑")
    assert rows["llm"]["Δ ndcg@10"] == f"{difference} {mark}"
    assert (rows["popular"]["Δ ndcg@10"], rows["chance"]["Δ ndcg@10"]) == ("–", "")
    assert stages == whole[-1]
    # written again whole; what trsr did not write is not written over, and nothing else is then
    (tmp_path / "more" / "one.md").write_text(detail + "mine\n")
    assert page_of(tmp_path, apart, runs) == page
    assert (tmp_path / "more" / "one.md").read_text("utf-8") == detail
    (tmp_path / "more" / "one.md").write_text("# Mine\n")
    with pytest.raises(ConfigError, match=r"one\.md was not written by `trsr results`"):
        page_of(tmp_path, apart.replace("Title", "Other"), runs)
    assert (tmp_path / "results.md").read_text("utf-8") == page
    with pytest.raises(ConfigError, match="details"):
        plan_of(tmp_path, 'details = "../more"\n' + section(["a"]), runs)


def test_notes_are_kept_and_all_else_is_written_again(tmp_path):
    runs = tmp_path / "runs"
    write_run(runs / "a", settings=DATA)
    write_run(runs / "b", settings=f"{DATA}[prompts]\nrecent = 7", seed=5)
    first = page_of(tmp_path, section(["a"]), runs)
    mine = "\n\nIt did not help: `|` and <!-- a comment -->, ## and all.\n\n"
    mark, top, end = (f"<!-- notes: {name} -->" for name in ("one", "top", "end"))
    text = first.replace(f"{mark}\n\n{mark}", f"{mark}{mine}{mark}")
    text = text.replace(f"{top}\n\n{top}", f"{top}\nFigures.\n{top}")
    text = text.replace(f"{end}\n\n{end}", f"{end}\n## Not run\n{end}").replace("chance", "CHANCE")
    (tmp_path / "results.md").write_text(text)
    changed = section(["a", "b"]).replace("Title of one", "Another")
    second = page_of(tmp_path, changed + "\n" + section(["b"], "two"), runs)
    assert f"{mark}{mine}{mark}" in second
    assert f"{top}\nFigures.\n{top}" in second
    assert f"{end}\n## Not run\n{end}" in second
    assert "CHANCE" not in second
    assert "## Another" in second
    assert "llm, recent=7" in second
    assert page_of(tmp_path, changed + "\n" + section(["b"], "two"), runs) == second
    # A section that is no more, and whose notes would be lost with it.
    with pytest.raises(ConfigError, match=r"notes of one, which .*results.toml does not name"):
        page_of(tmp_path, section(["b"], "two"), runs)
    assert (tmp_path / "results.md").read_text("utf-8") == second


@pytest.mark.parametrize(
    ("old", "said"),
    [
        ("# Results\n\nWritten by hand.\n", "was not written by `trsr results`"),
        ("{page}\n<!-- notes: one -->\n", "the notes of one do not stand between"),
        ("{page}\n<!-- notes: one -->\n<!-- notes: two -->\n", "the notes of one do not stand"),
    ],
)
def test_a_page_that_would_lose_words_is_left_as_it_is(tmp_path, old, said):
    write_run(tmp_path / "runs" / "a", settings=DATA)
    text = old.format(page=page_of(tmp_path, section(["a"]), tmp_path / "runs"))
    (tmp_path / "results.md").write_text(text)
    with pytest.raises(ConfigError, match=said):
        page_of(tmp_path, section(["a"]), tmp_path / "runs")
    assert (tmp_path / "results.md").read_text() == text


def test_a_page_that_is_not_utf_8_is_refused_and_left_as_it_is(tmp_path):
    write_run(tmp_path / "runs" / "a", settings=DATA)
    text = page_of(tmp_path, section(["a"]), tmp_path / "runs").encode()
    (tmp_path / "results.md").write_bytes(text + b"caf\xe9")
    with pytest.raises(ConfigError, match=rf"results.md: not UTF-8 text \(byte {len(text) + 3}\)"):
        page_of(tmp_path, section(["a"]), tmp_path / "runs")
    assert (tmp_path / "results.md").read_bytes() == text + b"caf\xe9"


def test_with_one_user_the_page_still_names_the_baseline(tmp_path):
    write_run(tmp_path / "runs" / "a", settings=DATA, queries=1)
    text = page_of(tmp_path, section(["a"], baseline="random"), tmp_path / "runs")
    assert "Differences to random. There is one user" in text
    assert "over 1 query;" in text


def test_runs_that_are_not_finished_are_all_named_or_left_out_with_their_number(tmp_path):
    runs = tmp_path / "runs"
    write_run(runs / "a", settings=DATA)
    (runs / "begun").mkdir()
    stale = write_run(runs / "stale", settings=DATA)
    record = StageRecord({}, {"cases.test.parquet": "0"}, {})
    RunDirectory(stale)._write_manifest({"evaluate": record}, [])
    half = write_run(runs / "half", settings=DATA)
    RunDirectory(half)._write_manifest({}, ["rank"])
    text = section(["a", "begun", "stale", "half"]) + "\n" + section(["nowhere"], "two")
    with pytest.raises(StoreError) as told:
        page_of(tmp_path, text, runs)
    assert "4 of 5 runs cannot be shown" in str(told.value)
    for words in (
        "begun: is not a run directory",
        "stale: cases.test.parquet changed since it was evaluated",
        "half: rank was stopped",
        "nowhere: there is no such run directory",
        "--skip",
    ):
        assert words in str(told.value)
    assert not (tmp_path / "results.md").exists()
    page = page_of(tmp_path, text, runs, skip=True)
    assert "3 of 4 runs are left out: not finished." in page
    assert "1 of 1 run is left out: not finished." in page
    assert [row[0] for row in tables(page)[0]] == ["", "random", "llm", "chance"]
    assert "## Title of two" in page


def test_a_section_whose_runs_are_gone_stays_as_it_stood(tmp_path):
    runs = tmp_path / "runs"
    write_run(runs / "a", settings=DATA)
    write_run(runs / "b", settings=DATA, candidates=5)
    both = section(["a"]) + "\n" + section(["b"], "two")
    first = page_of(tmp_path, both, runs)
    changed = both.replace("Title of", "New title of")
    (runs / "a").rename(runs / "lost")
    with pytest.raises(StoreError, match="1 of 2 runs cannot be shown"):
        page_of(tmp_path, changed, runs)
    found = write_results(plan_of(tmp_path, changed, runs), tmp_path / "results.md", skip=True)
    assert found.as_it_was == ("one",)
    second = (tmp_path / "results.md").read_text("utf-8")
    assert second == first.replace("Title of two", "New title of two")
    (runs / "lost").rename(runs / "a")
    third = page_of(tmp_path, changed, runs, skip=True)
    assert third == second.replace("Title of one", "New title of one")


def test_runs_that_ranked_something_else_never_stand_in_one_table(tmp_path):
    runs = tmp_path / "runs"
    write_run(runs / "a", settings=DATA)
    write_run(runs / "b", settings=DATA, candidates=5)
    with pytest.raises(DataError, match=r"sections.one: .*b has other candidates than .*a"):
        page_of(tmp_path, section(["a", "b"]), runs)
    page = page_of(tmp_path, section(["a"]) + "\n" + section(["b"], "two"), runs)
    assert "6 candidates each" in page
    assert "5 candidates each" in page
    write_run(runs / "again", settings=DATA)
    with pytest.raises(ConfigError, match="same settings and seed.* one run made twice"):
        page_of(tmp_path, section(["a", "again"]), runs)


def test_number_formats_of_the_language_models_are_told_with_their_runs(tmp_path):
    runs = tmp_path / "runs"
    for name, dtype in (("a", "float32"), ("b", "bfloat16"), ("c", "float32")):
        folder = write_run(runs / name, settings=DATA, seed=ord(name))
        info = {"models": {f"small 0f0f {dtype} adapter 1e1e openvino": {}}}
        records = {"rank": StageRecord({}, {}, {}, info), "evaluate": StageRecord({}, {}, {})}
        RunDirectory(folder)._write_manifest(records, [])
    page = page_of(tmp_path, section(["a"]) + "\n" + section(["a", "b", "c"], "all"), runs)
    assert "· language model in float32 ·" in page
    assert "· language model in bfloat16 (b) and in float32 (a, c) ·" in page
    write_run(runs / "cheap", settings=DATA)
    assert "language model in" not in page_of(tmp_path, section(["cheap"]), runs)


def test_the_machine_is_told_by_the_file_where_a_run_does_not(swept, tmp_path):
    write_run(tmp_path / "runs" / "a", settings=DATA)
    text = page_of(tmp_path, section(["a"]), tmp_path / "runs")
    assert "machine not recorded" in text
    text = page_of(tmp_path, section(["a"], machine="an abacus, no GPU"), tmp_path / "runs")
    assert "an abacus, no GPU" in text
    said = SWEPT.format(file=swept / "grid.toml") + 'machine = "an abacus"\n'
    (tmp_path / "other").mkdir()
    assert "abacus" not in page_of(tmp_path / "other", said)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (section(["a"], baseline="lm"), r"there is no row 'lm': did you mean llm"),
        (section(["a"], metrics=["auc"]), "a has no metric 'auc'"),
        (section(["a"], compare=["auk"]), "there is no metric 'auk'"),
        (section(["a"], sweep="grid.toml"), "either runs or a sweep"),
        (section([]), "either runs or a sweep"),
        (section(["a", "a"]), "a run stands twice"),
        (section(["a"], "top"), "no name for notes"),
        (section(["a"]).replace("command", "comand"), "sections.one.comand"),
        ('[sections.one]\ntitle = "x"\nruns = ["a"]\n', "write the command"),
        ('title = "Results"\n', "sections"),
        ('title = "<!-- notes: one -->"\n' + section(["a"]), "title: a mark of notes cannot stand"),
        (section(["a"], about="Of <!-- notes: b --> it"), "sections.one.about: a mark of notes"),
        (section(["a"], machine="<!-- notes: b -->"), "sections.one.machine: a mark of notes"),
        ("[sections]\n", "sections"),
    ],
)
def test_mistakes_of_the_file_are_told_and_nothing_is_written(tmp_path, text, said):
    write_run(tmp_path / "runs" / "a", settings=DATA)
    with pytest.raises(ConfigError, match=said):
        page_of(tmp_path, text, tmp_path / "runs")
    assert not (tmp_path / "results.md").exists()


def test_the_command_writes_the_page_beside_its_file(tmp_path, capsys, monkeypatch):
    write_run(tmp_path / "runs" / "a", settings=DATA)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "results.toml").write_text(section(["a", "gone"]))
    monkeypatch.chdir(tmp_path)

    def command(*words: str):
        monkeypatch.setattr("sys.argv", ["trsr", "results", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        return capsys.readouterr(), ended.value.code

    told, code = command()
    assert code == 2
    assert "1 of 2 runs cannot be shown" in told.err
    assert "gone" in told.err
    told, code = command("--skip")
    assert code == 0
    assert "sections 1, runs 1, left out 1" in told.out
    assert "gone" in told.err
    text = Path("docs/results.md").read_text("utf-8")
    assert "Written by `trsr results docs/results.toml`" in text
    assert command("nowhere.toml")[1] == 2
    assert command("docs/results.toml", "--page", "else.md", "--skip")[1] == 0
    assert Path("else.md").read_text("utf-8") == text
