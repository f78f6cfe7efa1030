"""The layout `chain` through the stages: what is told of a user, and what never is."""

from __future__ import annotations

import json
import re

import pytest
from pipeline_data import write_data

from trsr.config import load_config
from trsr.data import Dataset, prepare
from trsr.llm.base import Sampling
from trsr.llm.scripted import ScriptedModel
from trsr.pipeline import run
from trsr.pipeline.artifacts import read_summaries, with_summary
from trsr.progress import Silent
from trsr.prompts import PromptWriter
from trsr.summarize import summarize

CHAIN = ["prompts.layout=chain", "summarize.last_block=false", "data.history_step=3"]
NUMBER = re.compile(r"no(?:\. |#)(\d+)")


@pytest.mark.parametrize("strategy", ["recurrent", "hierarchical", "none"])
def test_no_prompt_knows_its_target_or_what_came_later(tmp_path, strategy):
    write_data(tmp_path, users=10)
    (tmp_path / "small.toml").write_text(
        '[data]\ninteractions = "clicks.csv"\nitems = "products.jsonl"\n'
        "min_history = 4\nmax_history = 8\ntargets_per_user = 6\nnegatives = 4\n"
    )
    settings = [f"summarize.strategy={strategy}", "summarize.block_items=3", "prompts.overlap=1"]
    config = load_config(tmp_path / "small.toml", [*CHAIN, *settings])
    (tmp_path / "out").mkdir()
    prepare(config.data, tmp_path / "out", seed=1, progress=Silent())
    dataset = Dataset.load(tmp_path / "out")
    taken = {}
    for line in (tmp_path / "clicks.csv").read_text().splitlines()[1:]:
        user, item, _ = line.split(",")
        taken.setdefault(user, []).append(int(item[1:]))

    def echo(prompt):
        """A summary that names every item it was asked about, or was told of."""
        return " ".join(f"no#{number}" for number in NUMBER.findall(prompt.messages[-1].content))

    model = ScriptedModel(echo, context_tokens=10**6)
    writer = PromptWriter(config.prompts, model.count_tokens, 10**6)
    cases = [case for part in ("train", "valid", "test") for case in dataset.cases(part)]
    summaries = summarize(
        ((case.query.id, case.query.history) for case in cases),
        model=model,
        writer=writer,
        settings=config.summarize.model_copy(update={"sampling": Sampling(max_tokens=10**6)}),
        progress=Silent(),
    )
    found = dict(summaries)
    named = 0
    for case in cases:
        query = with_summary(case, found).query
        _, user, place = query.id.rsplit("/", 2)
        past, rest = taken[user][: int(place)], taken[user][int(place) :]
        for prompt, candidate in zip(writer.judge(query), query.candidates, strict=True):
            text = prompt.messages[-1].content
            before = text[: text.rindex(writer.item_text(candidate, 40))]
            told = {int(number) for number in NUMBER.findall(before)}
            assert told <= set(past)
            assert not told & set(rest)
            named += len(told)
            # nothing of the history is lost between summary and items
            assert {int(item.id[1:]) for item in query.history.items} <= told
    assert named > 500


@pytest.mark.parametrize("strategy", ["recurrent", "none"])
def test_the_stages_run_with_one_layout_and_share_a_user_s_targets(tmp_path, small_run, strategy):
    pytest.importorskip("torch", reason="the extra `local` is not installed")
    common = ["data.targets_per_user=6", "train.epochs=1", "train.validate_steps=0"]
    common += ["rank.rankers=['llm']", f"summarize.strategy={strategy}", "train.cases_per_step=6"]
    path = small_run(tmp_path)
    facts = {}
    for layout, settings in (("chain", CHAIN), ("recent", CHAIN[1:])):
        folder = tmp_path / layout
        places = [f"run.folder={folder}", f"run.outputs={tmp_path}/outputs.sqlite"]
        config = load_config(path, [*common, *settings, *places])
        assert [one.made for one in run(config)] == [True] * 5
        stages = json.loads((folder / "manifest.json").read_text())
        facts[layout] = {name: one["info"] for name, one in stages["stages"].items()}
        (ranked,) = facts[layout]["rank"]["models"].values()
        assert ranked["prompts"] == facts[layout]["train"]["prompts"]
    chain, recent = facts["chain"], facts["recent"]
    assert chain["train"]["prompts"] != recent["train"]["prompts"]
    if strategy == "recurrent":
        assert recent["summarize"]["asked"] == 0  # the same summaries, from the store
        summaries = read_summaries(tmp_path / "chain")
        assert {one.covers % 3 for one in summaries.values()} == {0}
    ratios = {
        name: one["train"]["tokens"] / one["train"]["distinct_tokens"]
        for name, one in facts.items()
    }
    assert ratios["chain"] > 1.05 * ratios["recent"]
