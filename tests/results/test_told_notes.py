"""What runs' reports warn of stands below tables of several runs: of whom, and each once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from finished_runs import write_run

from trsr.evaluate import evaluate
from trsr.evaluate.notes import on_ties
from trsr.pipeline.compare import compare
from trsr.pipeline.finished import FinishedRun
from trsr.pipeline.notes import run_notes
from trsr.results import read_plan, write_results
from trsr.types import Case, Item, Query, RankedList, UserHistory

DATA = '[data]\ninteractions = "clicks.csv"\n'
ELSEWHERE = "mine: lists that were made elsewhere (rank.lists)."
TRAINING = "llm: the training hardly learned: its loss ended at 0.69."
TIED = (
    "llm: in 50 % of the queries a relevant item ties with another candidate; each tie counts as "
)
TIED += "its expected value over random orders."
WHOLE = "Something of the whole run."
SAMPLED = "Candidates are sampled"


def noted(folder: Path, *notes: str, blend: str = '["popular"]', **options) -> str:
    """A run whose report says these beside its own notes; rankers mine, blend and llm."""
    skills = {"mine": 0.5, "blend": 2.0, "llm": float(options.pop("skill", 1))}
    settings = f"{DATA}[prompts]\nrecent = {options.pop('recent', 3)}\n[rank]\nblend = {blend}\n"
    settings += 'rankers = ["mine", "blend", "llm"]\n[rank.lists.mine]\nfiles = ["/lists/a.trec"]\n'
    write_run(folder, skills=skills, settings=settings, **options)
    path = folder / "report.json"
    report = json.loads(path.read_text())
    path.write_text(json.dumps(report | {"notes": [*report["notes"], *notes]}))
    return str(folder)


def told(runs: list[str], word: str, **options) -> list[str]:
    return [note for note in compare(runs, **options).notes if word in note]


def test_what_a_report_says_is_known_for_what_it_is(tmp_path: Path) -> None:
    run = FinishedRun(write_run(tmp_path / "a", queries=20, candidates=2, skills={"llm": 0.0}))
    few, sampled = run_notes(run)
    assert "20 queries are few" in few.text
    assert (few.on_errors, few.on_ties, few.rankers) == (True, False, frozenset())
    assert SAMPLED in sampled.text
    assert not sampled.on_errors
    path = noted(tmp_path / "b", TIED, ELSEWHERE, "nobody: what is this?")
    *_, tied, elsewhere, nobody = run_notes(FinishedRun(Path(path)))
    assert (tied.on_ties, tied.rankers) == (True, {"llm"})
    assert (elsewhere.subject, elsewhere.rankers) == ("mine", {"mine"})
    assert (nobody.subject, nobody.text) == ("", "nobody: what is this?")


def test_a_note_that_evaluate_writes_on_ties_is_known(tmp_path: Path) -> None:
    query = Query("q", UserHistory("u", ()), (Item("a"), Item("b")))
    lists = {"llm": [RankedList.of(query, [1.0, 1.0])]}
    notes = evaluate([Case(query, frozenset({"a"}))], lists, ["auc"]).notes
    assert [note.partition(":")[0] for note in notes if on_ties(note)] == ["llm"]


def test_compare_says_the_protocol_once_and_what_concerns_the_compared(tmp_path: Path) -> None:
    one = noted(tmp_path / "one", ELSEWHERE, TRAINING, TIED, WHOLE, skill=2)
    two = noted(tmp_path / "two", ELSEWHERE, WHOLE)
    assert len(told([one, two], SAMPLED)) == 1
    assert told([one, two], "lists that were made elsewhere") == []
    assert told([one, two], "hardly learned") == [TRAINING.replace("llm", "llm (one)")]
    assert told([one, two], "each tie counts") == [TIED.replace("llm", "llm (one)")]
    assert told([one, two], WHOLE) == [WHOLE]
    # Of the one run whose llm is compared there is nothing to be told apart.
    assert told([one, f"{two}:mine"], "hardly learned") == [TRAINING]
    both = [f"{one}:mine", f"{two}:mine"]
    assert told(both, "made elsewhere") == [ELSEWHERE]
    assert told(both, "hardly learned") == []
    # The table has no standard errors, and says itself how sure its differences are.
    few = [noted(tmp_path / f"few{n}", queries=20) for n in range(2)]
    assert told(few, "standard errors") == []
    assert len(told(few, SAMPLED)) == 1


def test_a_blend_is_told_what_concerns_its_members(tmp_path: Path) -> None:
    runs = [noted(tmp_path / n, ELSEWHERE, blend='["mine"]', skill=len(n)) for n in ("a", "bb")]
    assert told([f"{run}:blend" for run in runs], "made elsewhere") == [ELSEWHERE]
    apart = noted(tmp_path / "c", ELSEWHERE, blend='["llm"]')
    assert told([f"{apart}:blend", f"{apart}:llm"], "made elsewhere") == []


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    one, two = noted(tmp_path / "x" / "run", WHOLE, skill=2), noted(tmp_path / "y" / "run")
    assert told([one, two], WHOLE) == [f"{one}: {WHOLE}"]


def test_of_some_queries_the_reports_notes_are_told_as_of_all(tmp_path: Path) -> None:
    one, two = noted(tmp_path / "one", queries=40), noted(tmp_path / "two", queries=30, skill=2)
    assert told([one, two], "of all that they were asked", only_shared=True)
    assert not told([one], "of all that they were asked")


def page_of(folder: Path, *runs: str) -> str:
    (folder / "results.toml").write_text(
        f'[sections.one]\ntitle = "One"\ncommand = "trsr run"\nruns = {json.dumps(runs)}\n'
    )
    write_results(read_plan(folder / "results.toml", folder), folder / "results.md")
    return (folder / "results.md").read_text("utf-8")


def test_the_page_loses_no_note_but_on_ties_and_names_whose_it_is(tmp_path: Path) -> None:
    noted(tmp_path / "a", ELSEWHERE, TRAINING, TIED, recent=1, skill=2)
    noted(tmp_path / "b", ELSEWHERE, WHOLE, recent=5)
    page = page_of(tmp_path, "a", "b")
    notes = [line for line in page.splitlines() if line.startswith("- ")]
    assert f"- {ELSEWHERE}" in notes
    assert f"- {TRAINING.replace('llm', 'llm (recent=1)')}" in notes
    assert f"- recent=5: {WHOLE}" in notes
    assert len([note for note in notes if SAMPLED in note]) == 1
    assert not [note for note in notes if "each tie counts" in note]
    assert len(notes) == 4
    alone = page_of(tmp_path, "a")
    assert f"- {TRAINING}" in alone.splitlines()


@pytest.mark.parametrize("seeds", [(0, 1), (0, 0)])
def test_of_several_runs_of_one_setting_the_page_names_the_one(tmp_path: Path, seeds) -> None:
    rankers = ["mine", "llm"] if seeds == (0, 0) else ["llm"]
    for name, seed, ranker in zip("ab", seeds, (rankers[0], rankers[-1]), strict=True):
        settings = f'{DATA}[train]\nseed = {seed}\n[rank]\nrankers = ["{ranker}"]\n'
        settings += '[rank.lists.mine]\nfiles = ["/lists/a.trec"]\n'
        run = write_run(tmp_path / name, skills={ranker: 1.0 + seed}, settings=settings)
        report = json.loads((run / "report.json").read_text())
        notes = [*report["notes"], *([WHOLE] if name == "b" else [])]
        (run / "report.json").write_text(json.dumps(report | {"notes": notes}))
    name = "b" if seeds == (0, 0) else "seed 1"
    assert f"- {name}: {WHOLE}" in page_of(tmp_path, "a", "b").splitlines()
