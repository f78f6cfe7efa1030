"""The example users of a run's page, and `trsr show`: what was read, written, told and ranked."""

from __future__ import annotations

import functools
import html
import re

import polars as pl
import pytest
from pipeline_data import configured, write_data

from trsr.cli.show import user_lines as lines
from trsr.config import load_config
from trsr.data import Dataset
from trsr.errors import DataError
from trsr.models.scripted import ScriptedModel
from trsr.pipeline import run, run_evaluate
from trsr.pipeline.artifacts import SUMMARIES, read_summaries
from trsr.pipeline.pages import GONE_NOTE

CONFIG = configured(
    prompts={"domain": "products", "style": "worked"},
    model={"context_tokens": 4096},
    summarize={"strategy": "recurrent", "block_items": 3},
    rank={"rankers": ["popular", "llm_zero_shot"]},
)
BEGUN = "The user buys things such as"


def numbers(text):
    """The items named in a text, each by the number in its title."""
    return re.findall(r"no\. (\d+)", text)


def named(text):
    """The items named in an answer of `read_back`."""
    return re.findall(r"number (\d+)", text)


def read_back(prompt):
    """An answer that names the items of a block, or says that it merges or revises."""
    told = prompt.messages[-2].content
    items = " and ".join(f"number {number}" for number in numbers(told))
    return f" {items or 'merged'} {' '.join(f'longer{n}' for n in range(100))}."


@pytest.fixture(scope="module")
def making(tmp_path_factory):
    """Gives what makes a whole run with settings of one's own: its configuration."""
    model = ScriptedModel(read_back, identity="names", context_tokens=4096)

    def make(*settings, users=14, items=30):
        folder = tmp_path_factory.mktemp("users")
        write_data(folder, users=users, items=items)
        (folder / "mine.toml").write_text(CONFIG)
        own = [f"run.folder={folder / 'run'}", "summarize.sampling.max_tokens=500", *settings]
        config = load_config(folder / "mine.toml", own)
        list(run(config))
        return config

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trsr.recommender.open_model", lambda settings, adapter: model)
        yield make


@pytest.fixture(scope="module")
def made(making):
    """The same, where each run is made once and no test changes it."""
    return functools.cache(making)


def page(config):
    return html.unescape((config.run.folder / "report.html").read_text("utf-8"))


def examples(config):
    """The page's example users, as they stand in it."""
    return page(config).partition('id="users"')[2].partition("</section>")[0].split("<details")[1:]


def blocks(example):
    """What stands in each block of a user: its items' numbers, and those that its summary names."""
    found = []
    for part in example.partition("<h4>Summary")[0].split('class="span-name">Block')[1:]:
        items, _, summary = part.partition("<blockquote>")
        found.append((numbers(items), named(summary.partition("</blockquote>")[0])))
    return found


@pytest.mark.parametrize("settings", [[], ["summarize.strategy=hierarchical"]])
def test_each_block_stands_with_the_summary_that_read_it(made, settings):
    config = made(*settings)
    sizes = set()
    for example in examples(config):
        found = blocks(example)
        assert found
        for items, told in found:
            assert told == items
            sizes.add(len(items))
    assert len(sizes) > 1
    cases = Dataset.load(config.run.folder).cases("test")
    query = next(iter(cases.queries()))
    shown = "\n".join(lines(config.run.folder, query.history.user))
    history, _, asked = shown.partition("\nsummaries (")
    told = [part.count("no. ") for part in history.split("  block ")[1:]]
    assert told == [len(items) for items, _ in blocks(examples(config)[0])]
    written = re.findall(r"^  \d+\. block \d+: (.*)", asked, re.MULTILINE)
    assert [len(named(text)) for text in written] == told


def test_full_blocks_alone_leave_items_that_no_summary_has_read(made):
    config = made("summarize.last_block=false")
    texts = [example for example in examples(config) if "Since then, not summarized" in example]
    assert texts
    for example in texts:
        rest = example.partition("Since then, not summarized")[2].partition("</ol>")[0]
        assert 1 <= len(numbers(rest)) < 3
    user = re.findall(r"<bdi>(u\d+)</bdi></h3>", texts[0])[0]
    assert "not summarized yet" in "\n".join(lines(config.run.folder, user))


def test_what_was_written_stands_whole_and_with_the_words_it_was_begun_with(made):
    config = made()
    summaries = read_summaries(config.run.folder)
    queries = list(Dataset.load(config.run.folder).cases("test").queries())
    for query, example in zip(queries, examples(config), strict=False):
        quotes = re.findall(r"<blockquote>.*?<bdi>(.*?)</bdi>", example)
        assert all(quote.startswith(f"{BEGUN} number ") for quote in quotes)
        assert quotes[-1] == quotes[-2] == summaries[query.id].text
        assert len(quotes[0]) > 500
    user = queries[0].history.user
    shown = "\n".join(lines(config.run.folder, user))
    assert f"  1. block 1: {BEGUN} number " in shown


def test_items_are_shown_in_the_words_of_the_prompts(made):
    config = made("prompts.fields=['title']", "prompts.summary_numbers=false", "prompts.words=2")
    for example in examples(config):
        history, _, candidates = example.partition("<table>")
        assert "title: " in history
        assert "brand" not in example.casefold()
        assert not numbers("".join(re.findall(r"<li><bdi>(.*?)</bdi>", history)))
        told = re.findall(r'<td class="text"><bdi>title: (.*?)</bdi>', candidates)
        assert told
        assert all(len(text.split()) == 2 for text in told)


def test_summaries_that_were_not_written_are_not_named(made):
    config = made("rank.rankers=['popular']")
    assert config.summarize.strategy != "none"
    assert "<bdi>no language model was used<" in page(config)


READ, NOT_READ = "Summary that the ranker read", "Summary that the ranker did not read"


@pytest.mark.parametrize(
    ("settings", "in_prompt", "subtitle"),
    [
        ([], True, "scripted, recurrent summaries, 3 recent items"),
        (["prompts.recent=1"], True, "scripted, recurrent summaries, 1 recent item<"),
        (
            ["rank.rankers=['llm_zero_shot', 'popular']"],
            False,
            "scripted, recurrent summaries, 3 recent items",
        ),
    ],
)
def test_a_summary_is_called_read_only_where_the_ranker_reads_it(
    made, settings, in_prompt, subtitle
):
    config = made(*settings)
    text = page(config)
    assert (READ in text, NOT_READ in text) == (in_prompt, not in_prompt)
    assert f"<bdi>{subtitle}" in text


def test_a_cheap_run_opens_no_model_to_be_shown(made, monkeypatch):
    config = made("rank.rankers=['popular']", "summarize.strategy=none")
    monkeypatch.delattr("trsr.cli.show.open_model")
    shown = "\n".join(lines(config.run.folder, "u3"))
    assert "so there is no prompt" in shown
    assert "No language model was asked." in page(config)
    assert "<h4>Summary" not in page(config)


def test_a_user_without_a_ranked_query_is_shown_as_far_as_known(made):
    sizes = ("data.test_cases=2", "data.train_users=3", "data.valid_cases=2")
    # a blend learns on the validation cases, which are summarized for it
    config = made(
        *sizes,
        "rank.rankers=['popular', 'blend']",
        "rank.blend.members=['popular', 'llm_zero_shot']",
    )
    dataset = Dataset.load(config.run.folder)
    ranked, valid, trained = (
        set(dataset.cases(split).frame["user"]) for split in ("test", "valid", "train")
    )
    everybody = set(dataset.interactions["user"])
    user = min(valid - ranked)
    shown = "\n".join(lines(config.run.folder, user))
    assert f"user {user} has no test query" in shown
    assert "this is the last summarized valid case" in shown
    assert BEGUN in shown
    assert "ranked by" not in shown
    user = min(everybody - ranked - trained - valid)
    shown = "\n".join(lines(config.run.folder, user))
    history = dataset.history(user)
    assert history is not None
    assert f"history of {len(history)} interactions" in shown
    assert "no summary" in shown
    with pytest.raises(DataError, match="there is no user 'nobody' in the data"):
        list(lines(config.run.folder, "nobody"))


def test_texts_that_are_gone_are_said_to_be_and_no_store_is_made(making):
    config = making()
    assert GONE_NOTE not in page(config)
    whole = page(config)
    config.run.cache.unlink()
    (config.run.folder / "report.json").unlink()
    run_evaluate(config)
    shown = "\n".join(lines(config.run.folder, "u3"))
    assert not config.run.cache.exists()
    for text in (page(config), shown):
        assert GONE_NOTE in text
        assert "(not in the response cache any more)" in text
    assert READ in page(config)
    for name in (*SUMMARIES, "report.json"):  # as the note says
        (config.run.folder / name).unlink()
    list(run(config))
    assert page(config).partition('id="users"')[2] == whole.partition('id="users"')[2]


def test_the_merges_stand_in_the_order_of_their_levels(made):
    config = made(
        "summarize.strategy=hierarchical", "summarize.fan_in=2", "summarize.block_items=2"
    )
    summaries = read_summaries(config.run.folder)
    queries = list(Dataset.load(config.run.folder).cases("test").queries())
    for query, example in zip(queries, examples(config), strict=False):
        merges = example.partition("Merges, in the order they were asked</h4>")[2]
        merges = re.findall("<li><blockquote>", merges.partition("</ol>")[0])
        summary = summaries[query.id]
        assert len(merges) == len(summary.sources) - len(blocks(example)) > 1
    user = queries[0].history.user
    assert f"  {len(summaries[queries[0].id].sources)}. {BEGUN} merged" in "\n".join(
        lines(config.run.folder, user)
    )


FULL = ["data.candidates=full", "data.min_history=4"]


def test_of_a_whole_catalogue_it_is_said_which_part_is_shown_and_where_the_target_stands(made):
    config = made(*FULL, "rank.rankers=['popular']", users=40, items=80)
    cases = list(Dataset.load(config.run.folder).cases("test"))
    rankings = pl.read_parquet(config.run.folder / "rankings.parquet")
    lists = dict(rankings.select("query", "items").iter_rows())
    later = 0
    for case, example in zip(cases, examples(config), strict=False):
        every = len(case.query.candidates)
        assert f"First 50 of {every} candidates, best first" in example
        (target,) = case.relevant
        place = lists[case.query.id].index(target) + 1
        later += place > 50
        rows = re.findall(r'<tr class="right">.*?</tr>', example, re.DOTALL)
        assert len(rows) == 1
        assert f'<th scope="row">{place}</th>' in rows[0]
        assert example.count('<th scope="row">') == 50 + (place > 50)
    assert later


def test_a_target_that_the_first_stage_did_not_propose_is_said_to_be_that(made):
    config = made(*FULL, "rank.retrieve_k=7", "rank.depth=20", users=40, items=80)
    cases = list(Dataset.load(config.run.folder).cases("test"))
    rankings = pl.read_parquet(config.run.folder / "rankings.parquet").filter(
        ranker="llm_zero_shot"
    )
    lists = dict(rankings.select("query", "items").iter_rows())
    missing = 0
    for case, example in zip(cases, examples(config), strict=False):
        every = len(case.query.candidates)
        assert f"7 candidates that popular proposed out of {every}, best first" in example
        absent = not case.relevant & set(lists[case.query.id])
        missing += absent
        assert ("not proposed by popular" in example) == absent
    assert missing
    # the prompt that is shown is one that was asked
    query = cases[0].query
    shown = "\n".join(lines(config.run.folder, query.history.user))
    prompt = shown.partition("prompt of the first candidate")[2].partition("ranked by")[0]
    candidate = prompt.rstrip().splitlines()[-1]
    asked = {item.fields[0][1] for item in query.candidates if item.id in lists[query.id]}
    assert any(title in candidate for title in asked)


def test_a_target_beyond_the_places_that_a_list_keeps_is_said_to_be_that(made):
    config = made(*FULL, "rank.rankers=['popular']", "rank.depth=20", users=40, items=80)
    assert "First 20 of " in page(config)
    assert "not among the first 20" in page(config)
