"""Each check of the audit finds the fault planted for it, and a clean run passes."""

from __future__ import annotations

import json
import random
import shutil
import tomllib
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import tomli_w
from command_line import trsr
from pipeline_data import configured

from trsr.config import load_config
from trsr.errors import StoreError
from trsr.experiments.audit import Check, audit
from trsr.experiments.audit.cases import _judged, numbers_of
from trsr.pipeline import run
from trsr.storage.run_directory import hash_file

CONFIG = configured(
    data={"negatives": 9, "train_negatives": 2},
    prompts={"domain": "products", "fields": ["title"], "recent": 2},
    summarize={"block_items": 3},
    rank={"rankers": ["random", "popular", "llm_zero_shot"]},
)
STATES = ("ok", "warning", "finding", "skipped")
FILES = "files as their stages wrote them"
IN_SUMMARY = "words of the target in the summary"
IN_PROMPT = "words of the target in the prompt"
MODEL_CHECKS = (
    "does the order of the history matter",
    "does the user's own summary matter",
    "does a summary matter",
)
WORDS = [a + b for a in ("steel", "bolt", "drill", "tape", "lamp", "mask") for b in "abcdefg"]


def _name(n: int) -> str:
    """A word for a number: prompts must not show ids."""
    return "no" + "".join("abcdefghij"[int(digit)] for digit in str(n))


def write(folder: Path, *, users: int = 120, items: int = 90, near: bool = False) -> None:
    """Users whose taste is a word of the title; with `near`, neighbouring ids instead."""
    draw = random.Random(8)
    order = draw.sample(range(1000, 9999), items)
    # Long titles of few words: the scripted model counts common words, and few of them tie.
    titles = {n: " ".join([*draw.sample(WORDS, draw.randint(9, 34)), _name(n)]) for n in order}
    with (folder / "products.jsonl").open("w") as file:
        for n in order:
            file.write(json.dumps({"sku": str(n), "title": titles[n]}) + "\n")
    ranked = sorted(order)
    with (folder / "clicks.csv").open("w") as file:
        file.write("customer,sku,when\n")
        for user in range(users):
            at = draw.randrange(items - 12)
            taken = draw.sample(ranked[at : at + 12] if near else ranked, 8)
            for step, n in enumerate(taken):
                file.write(f"u{user},{n},{draw.randint(0, 99) + 100 * step}\n")


def states(folder: Path, llm_queries: int = 0) -> dict[str, str]:
    return {check.name: check.state for check in audit(folder, llm_queries).checks}


def change(folder: Path, name: str, *columns: pl.Expr) -> None:
    path = folder / name
    pl.read_parquet(path).with_columns(*columns).write_parquet(path)


def check(folder: Path, name: str, llm_queries: int = 0) -> Check:
    """The check of this name."""
    (found,) = [one for one in audit(folder, llm_queries).checks if one.name == name]
    return found


@pytest.fixture(scope="session")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("audit")
    write(folder)
    (folder / "mine.toml").write_text(CONFIG)
    list(run(load_config(folder / "mine.toml", [f"run.folder={folder / 'run'}"])))
    return folder / "run"


@pytest.fixture(scope="session")
def sound(clean: Path) -> dict[str, Check]:
    """What the audit says of it, by the names of the checks."""
    return {check.name: check for check in audit(clean).checks}


@pytest.fixture
def faulty(clean: Path, tmp_path: Path) -> Path:
    """A copy of the clean run, to plant a fault in."""
    shutil.copytree(clean, tmp_path / "run")
    return tmp_path / "run"


def test_a_clean_run_has_no_findings(sound: dict[str, Check]) -> None:
    found = {state: {n for n, one in sound.items() if one.state == state} for state in STATES}
    assert not found["finding"]
    assert found["skipped"] == set(MODEL_CHECKS)
    assert found["ok"] > {
        "item ids give the target away",
        "other users' later events",
        "items' popularity gives the target away",
        FILES,
    }
    for name in (IN_SUMMARY, IN_PROMPT):
        assert sound[name].state == "ok"
        assert abs(float(str(sound[name].numbers["test"])) - 0.5) < 0.02


def test_targets_in_the_history_are_found(faulty: Path) -> None:
    first = pl.concat_list(pl.col("relevant"), pl.col("items").list.slice(1))
    change(faulty, "cases.valid.parquet", first.alias("items"))
    found = audit(faulty)
    (check,) = [one for one in found.findings if one.name == "target in the history"]
    assert check.numbers["test"] == check.numbers["train"] == 0
    assert check.numbers["valid"] == 120


def test_given_lists_may_hold_met_items(faulty: Path) -> None:
    last = pl.concat_list(pl.col("items").list.slice(1), pl.col("relevant"))
    change(faulty, "cases.test.parquet", last.alias("items"))
    settings = (faulty / "config.toml").read_text("utf-8")
    lists = 'candidates = "given"\nimpressions = "lists.jsonl"'
    given = settings.replace('candidates = "uniform"', lists)
    (faulty / "config.toml").write_text(given, "utf-8")
    found = states(faulty)
    assert found["target in the history"] == "warning"
    assert found["words of the target in the prompt"] == "skipped"


TEST, SUMMARIES = "cases.test.parquet", "summaries.test.parquet"
TWICE, COVERED = "candidates, each once", "summaries that saw later events"
SHOWN, RIGHT = pl.col("candidates"), pl.col("relevant")
LATE = pl.col("time") + pl.col("user").str.len_chars() * 10_000


@pytest.mark.parametrize(
    ("name", "changes", "fault", "state"),
    [
        (TEST, {"candidates": pl.concat_list(SHOWN, RIGHT)}, TWICE, "finding"),
        (TEST, {"candidates": SHOWN.list.set_difference("relevant")}, TWICE, "finding"),
        (
            TEST,
            {"candidates": pl.concat_list(SHOWN, pl.col("items").list.first())},
            "negatives in the history",
            "finding",
        ),
        (
            TEST,
            {"candidates": pl.concat_list(RIGHT, SHOWN.list.set_difference("relevant"))},
            "place of the target among the candidates",
            "finding",
        ),
        (SUMMARIES, {"covers": pl.col("covers") + 5}, COVERED, "finding"),
        (SUMMARIES, {"covers": pl.lit(0, pl.Int64)}, COVERED, "ok"),
        (SUMMARIES, {"covers": pl.lit(0, pl.Int64), "user": pl.lit("u1")}, COVERED, "finding"),
        ("interactions.parquet", {"time": LATE}, "other users' later events", "warning"),
        ("items.parquet", {"title": pl.lit("a bolt")}, "candidates that read alike", "finding"),
    ],
)
def test_a_fault_in_a_file_is_found(
    faulty: Path, name: str, changes: dict[str, pl.Expr], fault: str, state: str
) -> None:
    change(faulty, name, *(made.alias(column) for column, made in changes.items()))
    assert states(faulty)[fault] == state


@pytest.mark.parametrize("fault", ["target", "later"])
def test_fitting_on_held_out_events_is_found(faulty: Path, fault: str) -> None:
    path = faulty / "interactions.parquet"
    rows = pl.read_parquet(path)
    case = pl.read_parquet(faulty / "cases.valid.parquet").row(0, named=True)
    item = case["relevant"][0] if fault == "target" else case["items"][0]
    time = case["times"][0] if fault == "target" else case["times"][-1] + 1.0
    leak = pl.DataFrame({"user": [case["user"]], "item": [item], "time": [time]})
    pl.concat([rows, leak]).write_parquet(path)
    assert states(faulty)["fitted on held-out events"] == "finding"


def test_what_was_met_before_the_kept_history_may_be_fitted_on(faulty: Path) -> None:
    case = pl.read_parquet(faulty / "cases.valid.parquet").row(0, named=True)
    path = faulty / "interactions.parquet"
    early = pl.DataFrame(
        {"user": [case["user"]], "item": case["relevant"], "time": [case["times"][0] - 1.0]}
    )
    pl.concat([pl.read_parquet(path), early]).write_parquet(path)
    assert states(faulty)["fitted on held-out events"] == "ok"


def test_a_date_parts_what_is_fitted_from_what_is_asked(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "mine.toml").write_text(CONFIG)
    folder = tmp_path / "run"
    settings = [f"run.folder={folder}", "data.split=global_time", 'rank.rankers=["popular"]']
    list(run(load_config(tmp_path / "mine.toml", settings)))
    assert states(folder)["other users' later events"] == "ok"
    change(folder, "interactions.parquet", (pl.col("time") + 300).alias("time"))
    assert states(folder)["other users' later events"] == "warning"


def test_of_several_targets_none_stands_first_by_the_way_they_are_listed(faulty: Path) -> None:
    """Given lists hold several right items, in the order in which they are shown."""
    for split in ("train", "valid", "test"):
        path = faulty / f"cases.{split}.parquet"
        rows = pl.read_parquet(path)
        right = [
            [item for item in shown if item in {*relevant, *random.Random(n).sample(shown, 2)}]
            for n, (shown, relevant) in enumerate(rows.select("candidates", "relevant").rows())
        ]
        rows.with_columns(relevant=pl.Series(right)).write_parquet(path)
    assert states(faulty)["place of the target among the candidates"] == "ok"


def test_ids_near_each_other_are_a_warning_and_a_finding_where_prompts_show_them(
    tmp_path: Path,
) -> None:
    write(tmp_path, users=60, near=True)
    (tmp_path / "mine.toml").write_text(CONFIG)
    folder = tmp_path / "run"
    settings = [f"run.folder={folder}", "summarize.strategy=none"]
    list(run(load_config(tmp_path / "mine.toml", settings)))
    found = audit(folder)
    (check,) = [one for one in found.checks if one.name == "item ids give the target away"]
    assert check.state == "warning"
    assert float(str(check.numbers["auc"])) > 0.8
    assert "this alone puts the target before" in check.seen
    assert not found.findings
    titled = pl.format("{} (no. {})", "title", "id").alias("title")
    change(folder, "items.parquet", titled)
    assert states(folder)["item ids give the target away"] == "finding"


def test_a_weak_shortcut_is_told_apart_from_none() -> None:
    def judged(won: int) -> Check:
        """Of 2,000 targets so many stand above their negative, and the others below."""
        scores = [np.array([1.0, 0.0])] * won + [np.array([0.0, 1.0])] * (2000 - won)
        return _judged("ids", scores, "look", "warning")

    assert judged(1020).seen.endswith(": within 3 standard errors of chance")
    assert judged(1120).state == "ok"
    assert judged(1120).seen.endswith("above chance; a warning above 0.6")
    assert judged(1400).state == "warning"
    assert judged(600).state == "ok"
    assert judged(600).seen.endswith("below chance: this puts the target behind 70 % of the others")


def test_a_strong_shortcut_of_few_queries_is_not_called_chance() -> None:
    scores = [np.array([1.0, 0.0])] * 13 + [np.array([0.0, 1.0])] * 7
    found = _judged("ids", scores, "look", "warning")
    assert found.state == "ok"
    assert found.seen.endswith(
        "above 0.6, but within 3 standard errors of chance: 20 queries are too few to tell"
    )
    assert found.numbers["queries"] == 20


def test_popular_targets_among_uniform_negatives_are_a_warning(faulty: Path) -> None:
    name = "items' popularity gives the target away"
    targets = pl.read_parquet(faulty / "cases.test.parquet")["relevant"].list.first().unique()
    rows = pl.read_parquet(faulty / "interactions.parquet")
    again = rows.filter(pl.col("item").is_in(targets.implode()))
    pl.concat([rows, again, again, again]).write_parquet(faulty / "interactions.parquet")
    assert states(faulty)[name] == "warning"


def test_summaries_that_tell_no_user_from_another_are_a_warning(faulty: Path) -> None:
    name = "summaries that tell no user from another"
    for split in ("train", "valid", "test"):
        change(faulty, f"summaries.{split}.parquet", pl.col("user").alias("text"))
    assert states(faulty)[name] == "ok"
    change(faulty, "summaries.test.parquet", pl.lit("The user likes things.").alias("text"))
    assert states(faulty)[name] == "warning"


def test_ties_and_lists_that_do_not_answer_are_found(faulty: Path) -> None:
    flat = pl.col("scores").list.eval(pl.element() * 0)
    change(faulty, "rankings.parquet", flat.alias("scores"))
    found = states(faulty)
    assert found["ties of llm_zero_shot"] == "finding"
    assert found["ties of random"] == "warning"
    change(faulty, "rankings.parquet", pl.col("items").list.head(3), pl.col("scores").list.head(3))
    assert states(faulty)["ranked lists answer the test cases"] == "finding"


def test_the_model_is_asked_whether_its_inputs_matter(clean: Path, faulty: Path) -> None:
    """The scripted model scores common words: a summary that names the target's words helps."""
    titles = dict(pl.read_parquet(faulty / "items.parquet").select("id", "title").iter_rows())
    cases = pl.read_parquet(faulty / "cases.test.parquet")
    own = {
        query: titles[target]
        for query, target in zip(cases["query"], cases["relevant"].list.first(), strict=True)
    }
    text = pl.col("query").replace_strict(own, default=pl.col("text"))
    change(faulty, "summaries.test.parquet", text.alias("text"))
    checks = {check.name: check for check in audit(faulty, 60).checks}
    for name in ("does the user's own summary matter", "does a summary matter"):
        assert checks[name].state == "ok", checks[name]
        assert float(str(checks[name].numbers["auc low"])) > 0.1
        assert checks[name].numbers["queries"] == 60
    # The same summary for everybody makes no difference that could be seen.
    change(faulty, "summaries.test.parquet", pl.lit("The user likes things.").alias("text"))
    checks = {check.name: check for check in audit(faulty, 60).checks}
    assert checks["does the user's own summary matter"].state == "warning"
    assert checks["does the user's own summary matter"].numbers["auc"] == 0.0


def test_what_is_missing_or_damaged_is_told(faulty: Path) -> None:
    (faulty / "summaries.test.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(StoreError, match=r"test.parquet: is damaged .*give `trsr run`"):
        audit(faulty)
    (faulty / "cases.test.parquet").unlink()
    with pytest.raises(StoreError, match=r"\(cases.test.parquet is missing\); make one with"):
        audit(faulty)


def test_without_test_cases_lists_are_not_looked_at(faulty: Path) -> None:
    for name in ("cases.test.parquet", "rankings.parquet", "summaries.test.parquet"):
        path = faulty / name
        pl.read_parquet(path).head(0).write_parquet(path)
    found = states(faulty)
    findings = [name for name, state in found.items() if state == "finding"]
    assert findings == ["files as their stages wrote them"]
    assert found["ranked lists answer the test cases"] == "skipped"


def test_a_run_over_the_whole_catalogue_is_audited(tmp_path: Path) -> None:
    write(tmp_path, users=60, near=True)
    (tmp_path / "mine.toml").write_text(CONFIG)
    folder = tmp_path / "run"
    settings = [f"run.folder={folder}", "data.candidates=full", "rank.retrieve_k=20"]
    list(run(load_config(tmp_path / "mine.toml", settings)))
    found = states(folder, 30)
    assert "finding" not in found.values()
    assert found["item ids give the target away"] == "warning"
    assert found["ranked lists answer the test cases"] == "ok"
    assert found["does the order of the history matter"] in ("ok", "warning")


def test_findings_fail_the_command(clean: Path, faulty: Path) -> None:
    passed = trsr("audit", clean, cwd=clean)
    assert "target in the history" in passed.stdout
    change(faulty, "summaries.test.parquet", (pl.col("covers") + 5).alias("covers"))
    failed = trsr("audit", faulty, "--json", cwd=clean, code=1)
    value = json.loads(failed.stdout)
    assert value["findings"] == 2  # the file itself is not what was written, too
    assert {check["state"] for check in value["checks"]} >= {"ok", "finding", "skipped"}
    trsr("audit", faulty.parent / "nowhere", cwd=clean, code=2)
    with pytest.raises(StoreError, match="not a run directory"):
        audit(faulty.parent)


def test_numbers_of_ids() -> None:
    def values(*ids: str) -> list[float] | None:
        found = numbers_of(ids)
        return None if found is None else found.tolist()

    assert values("12", "7") == [12, 7]
    assert values("p12", "p7") == [12, 7]
    assert values("B00A", "B00B") == [int("B00A", 36), int("B00B", 36)]
    assert values("p12", "q7") is None
    assert values("anna", "bert") is None


# --- What the texts give away: words of the target, items that read alike


def add_target_words(folder: Path, share: float) -> None:
    """Adds one word of the target's title, that no other has, to summaries of test queries."""
    titles = dict(pl.read_parquet(folder / "items.parquet").select("id", "title").iter_rows())
    cases = pl.read_parquet(folder / "cases.test.parquet")
    pairs = list(zip(cases["query"], cases["relevant"].list.first(), strict=True))
    more = {query: titles[item].split()[-1] for query, item in pairs[: int(share * len(pairs))]}
    word = pl.col("query").replace_strict(more, default="")
    change(folder, "summaries.test.parquet", pl.format("{} {}", "text", word).alias("text"))


def test_a_word_of_the_target_in_summaries_is_found(faulty: Path) -> None:
    add_target_words(faulty, 1)
    found = {one.name: one for one in audit(faulty).checks}
    for name in (IN_SUMMARY, IN_PROMPT):
        assert found[name].state == "finding"
        assert float(str(found[name].numbers["test"])) > 0.95


def test_a_few_words_of_targets_are_a_warning(faulty: Path) -> None:
    add_target_words(faulty, 0.15)
    found = check(faulty, IN_SUMMARY)
    assert found.state == "warning", found
    assert "may guess" in found.seen


def test_words_of_the_history_are_no_leak(faulty: Path) -> None:
    """A summary says what was taken; that targets are of the same words is taste."""
    titles = dict(pl.read_parquet(faulty / "items.parquet").select("id", "title").iter_rows())
    cases = pl.read_parquet(faulty / "cases.test.parquet")
    own = {
        query: " ".join(titles[item] for item in items)
        for query, items in cases.select("query", "items").iter_rows()
    }
    text = pl.col("query").replace_strict(own, default=pl.col("text"))
    change(faulty, "summaries.test.parquet", text.alias("text"))
    assert check(faulty, IN_SUMMARY).numbers["test"] == 0.5


@pytest.mark.parametrize(("share", "state"), [(1, "finding"), (0.11, "warning"), (0, "ok")])
@pytest.mark.parametrize("answers_first", [False, True], ids=["history", "answer"])
def test_a_title_inside_the_text_of_another_item_is_found(
    faulty: Path, share: float, state: str, answers_first: bool
) -> None:
    """The target's title in the text of an item of its history, or that item's in the target's."""
    titles = dict(pl.read_parquet(faulty / "items.parquet").select("id", "title").iter_rows())
    cases = pl.read_parquet(faulty / "cases.test.parquet")
    last, right = cases["items"].list.last(), cases["relevant"].list.first()
    more: dict[str, str] = {}
    for item, answer in list(zip(last, right, strict=True))[: int(share * len(cases))]:
        holds, named = (answer, item) if answers_first else (item, answer)
        more[holds] = f"{more.get(holds, '')} also: {titles[named]}"
    extra = pl.col("id").replace_strict(more, default="", return_dtype=pl.String)
    change(faulty, "items.parquet", pl.format("{}{}", "title", extra).alias("title"))
    found = check(faulty, "the target's title in texts of the history")
    assert found.state == state, found
    assert check(faulty, IN_PROMPT).state == "ok"


def test_titles_that_begin_alike_are_a_warning_at_most(faulty: Path) -> None:
    """Variants of a product do: a user who buys one often buys another."""
    cases = pl.read_parquet(faulty / "cases.test.parquet")
    pairs = zip(cases["items"].list.last(), cases["relevant"].list.first(), strict=True)
    first = {one: f"series of user {n} part" for n, pair in enumerate(pairs) for one in pair}
    front = pl.col("id").replace_strict(first, default="", return_dtype=pl.String)
    change(faulty, "items.parquet", pl.format("{} {}", front, "title").alias("title"))
    found = check(faulty, "the target's title in texts of the history")
    assert found.state == "warning"
    assert "variants" in found.seen


def test_items_that_no_text_tells_apart_have_no_title_to_be_found(faulty: Path) -> None:
    change(faulty, "items.parquet", pl.lit("one brand").alias("title"))
    assert check(faulty, "the target's title in texts of the history").state == "skipped"


# --- What an audit says of the files of a run, of what was counted, and of what a model shows


@pytest.mark.parametrize(
    "name",
    ["summaries.test.parquet", "cases.test.parquet", "rankings.parquet", "per_query.parquet"],
)
def test_a_changed_file_is_found_and_named(faulty: Path, name: str) -> None:
    change(faulty, name, pl.col("query").alias("once more"))
    if name == "summaries.test.parquet":
        path = faulty / name
        pl.read_parquet(path).drop("once more").head(-1).write_parquet(path)
    found = check(faulty, FILES)
    assert found.state == "finding"
    assert found.seen.startswith(f"{name} changed since ")


def test_summaries_from_elsewhere_that_were_ranked_with_are_told(faulty: Path) -> None:
    """They may be written by hand, and the stages below then read them."""
    name = "summaries.test.parquet"
    change(faulty, name, pl.lit("The user likes tape.").alias("text"))
    assert "(rank, evaluate read what was there before)" in check(faulty, FILES).seen
    manifest = json.loads((faulty / "manifest.json").read_text("utf-8"))
    for record in manifest["stages"].values():
        if name in record["parents"]:
            record["parents"][name] = hash_file(faulty / name)
    (faulty / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    found = check(faulty, FILES)
    assert found.state == "warning"
    assert f"{name} is not what summarize wrote" in found.seen


def test_a_file_that_is_gone_is_told(faulty: Path) -> None:
    (faulty / "report.md").unlink()
    found = check(faulty, FILES)
    assert (found.state, found.seen) == ("warning", "report.md of evaluate is gone")
    (faulty / "manifest.json").unlink()
    assert check(faulty, FILES).state == "skipped"


def test_rankings_of_other_cases_are_found(faulty: Path) -> None:
    manifest = json.loads((faulty / "manifest.json").read_text("utf-8"))
    manifest["stages"]["rank"]["parents"]["cases.test.parquet"] = "0" * 64
    (faulty / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    found = check(faulty, FILES)
    assert found.state == "finding"
    assert "cases.test.parquet was made anew (rank read what was there before)" in found.seen


def test_without_test_queries_nothing_is_called_ok_for_them(faulty: Path) -> None:
    for name in ("cases.test.parquet", "rankings.parquet"):
        path = faulty / name
        pl.read_parquet(path).head(0).write_parquet(path)
    for split in ("train", "valid"):
        path = faulty / f"cases.{split}.parquet"
        pl.read_parquet(path).head(0).write_parquet(path)
    found = {one.name: one for one in audit(faulty).checks}
    for name in ("target in the history", "candidates, each once", "negatives in the history"):
        assert (found[name].state, found[name].seen) == ("skipped", "there are no cases")


def test_a_summary_that_ranks_lower_is_told_as_such(faulty: Path) -> None:
    """The scripted model counts common words: these summaries hold the negatives' alone."""
    titles = dict(pl.read_parquet(faulty / "items.parquet").select("id", "title").iter_rows())
    cases = pl.read_parquet(faulty / "cases.test.parquet")
    against = {
        query: " ".join(
            {word for item in candidates for word in titles[item].split()}
            - set(titles[relevant[0]].split())
        )
        for query, candidates, relevant in cases.select(
            "query", "candidates", "relevant"
        ).iter_rows()
    }
    text = pl.col("query").replace_strict(against, default=pl.col("text"))
    change(faulty, "summaries.test.parquet", text.alias("text"))
    found = check(faulty, "does the user's own summary matter", 60)
    assert found.state == "warning"
    assert found.seen.endswith("; own summary ranks lower")


def with_rankers(folder: Path, *rankers: str) -> None:
    """Writes other rankers, and a blend of two, into a run's settings."""
    settings = tomllib.loads((folder / "config.toml").read_text("utf-8"))
    settings["rank"] |= {"rankers": [*rankers], "blend": {"members": ["popular", "llm_zero_shot"]}}
    (folder / "config.toml").write_text(tomli_w.dumps(settings), "utf-8")


@pytest.mark.parametrize("queries", [0, 20])
def test_a_model_that_the_run_never_asked_is_not_asked_by_the_audit(
    faulty: Path, monkeypatch: pytest.MonkeyPatch, queries: int
) -> None:
    def opened(*_: object) -> None:
        raise AssertionError("the audit opened a model")

    monkeypatch.setattr("trsr.experiments.audit.model.open_ranking_model", opened)
    with_rankers(faulty, "random", "popular")
    found = {one.name: one for one in audit(faulty, queries).checks}
    said = "no ranker of the run asks a language model (random, popular)"
    for name in MODEL_CHECKS:
        assert (found[name].state, found[name].seen) == ("skipped", said)


def test_a_model_that_is_asked_by_a_blend_alone_is_looked_at(faulty: Path) -> None:
    with_rankers(faulty, "popular", "blend")
    found = {one.name: one for one in audit(faulty, 20).checks}
    assert {found[name].state for name in MODEL_CHECKS} <= {"ok", "warning"}
