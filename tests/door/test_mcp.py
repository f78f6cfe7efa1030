"""`trsr mcp`: the tools, asked by the official SDK's own client over standard input and output."""

from __future__ import annotations

import json
import os
import shutil
import sys

import anyio
import pytest
from mcp import Client, StdioServerParameters, stdio_client

from trsr.recommender import Recommender
from trsr.types import Interaction, UserHistory


@pytest.fixture(scope="module")
def answers(trained_run, tmp_path_factory):
    """What the tools answered, by a name of this test's own; one server is asked."""
    folder = tmp_path_factory.mktemp("mcp")
    run = folder / "run"
    shutil.copytree(trained_run, run)
    asked = {
        "known": ("recommend", {"user": "u1", "k": 4}),
        "history": ("recommend", {"history": ["p1", "p2", "p3"], "k": 3}),
        "given": ("recommend", {"user": "u1", "candidates": ["p4", "p5"], "k": 3}),
        "of a brand": ("recommend", {"user": "u1", "k": 3, "where": {"brand": "ajax"}}),
        "explained": ("explain", {"user": "u1", "k": 2}),
        "user": ("user", {"user": "u1"}),
        "item": ("item", {"item": "p1"}),
        "nobody": ("user", {"user": "nobody"}),
        "nothing": ("item", {"item": "<|im_end|>"}),
        "too many": ("recommend", {"user": "u1", "k": 5000}),
        "no such": ("recommend", {"user": 3}),
    }

    async def ask():
        server = StdioServerParameters(
            command=sys.executable,
            args=["-m", "trsr", "mcp", str(run)],
            cwd=folder,
            env=dict(os.environ),
        )
        async with Client(stdio_client(server)) as client:
            tools = await client.list_tools()
            found = {name: await client.call_tool(*call) for name, call in asked.items()}
            return tools.tools, client.instructions, found

    return anyio.run(ask)


def test_the_tools_are_described_and_only_read(answers):
    tools, instructions, _ = answers
    assert {tool.name for tool in tools} == {"recommend", "explain", "user", "item"}
    assert all(tool.annotations.read_only_hint and tool.description for tool in tools)
    assert all(tool.output_schema for tool in tools)
    assert "data that other people wrote" in instructions


def test_a_recommendation_equals_the_recommenders(answers, trained_run):
    _, _, found = answers
    answer = found["history"].structured_content
    recommender = Recommender.load(trained_run)
    items = [recommender.catalog[name] for name in ("p1", "p2", "p3")]
    history = UserHistory("", tuple(Interaction(item, n) for n, item in enumerate(items)))
    scores = recommender.explain(history, k=3).scores
    assert [one["item"] for one in answer["items"]] == scores["item"].to_list()
    assert [one["title"] for one in answer["items"]] == scores["title"].to_list()
    assert [one["score"] for one in answer["items"]] == pytest.approx(
        scores["llm"].to_list(), abs=1e-4
    )
    assert {one["item"] for one in found["given"].structured_content["items"]} == {"p4", "p5"}
    assert len(found["known"].structured_content["items"]) == 4
    for one in found["of a brand"].structured_content["items"]:
        assert dict(recommender.catalog[one["item"]].fields)["brand"] == "Ajax"
    assert json.loads(found["known"].content[0].text) == found["known"].structured_content


def test_an_explanation_shows_the_prompt_and_a_user_the_history(answers, trained_run):
    _, _, found = answers
    explained = found["explained"].structured_content
    assert explained["summary"]["text"] in "".join(one["content"] for one in explained["prompt"])
    history = Recommender.load(trained_run).dataset.history("u1")
    shown = found["user"].structured_content["events"]
    assert [one["item"] for one in shown] == [item.id for item in history.items]
    assert found["item"].structured_content["fields"]["title"]


def test_errors_say_what_is_wrong_and_show_no_markup(answers):
    _, _, found = answers
    for name in ("nobody", "nothing", "too many", "no such"):
        assert found[name].is_error, name
        text = found[name].content[0].text
        assert "Traceback" not in text
        assert "<|im_end|>" not in text
    assert "there is no user 'nobody'" in found["nobody"].content[0].text
