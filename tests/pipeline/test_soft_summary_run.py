"""A run with soft summaries: lists, recommendations, what a person reads, and what is refused."""

from __future__ import annotations

import json
import time

import pytest
from pipeline_data import FEW

from trsr.cli.show import user_lines
from trsr.errors import ConfigError
from trsr.models.hf.soft_summary import SummaryEncoder
from trsr.pipeline import is_finished, run
from trsr.pipeline.artifacts import read_summaries
from trsr.pipeline.runner import reason
from trsr.pipeline.stages import STAGES
from trsr.progress import Silent
from trsr.recommender import Recommender, soft_summaries
from trsr.serve.schemas import Event, RecommendRequest
from trsr.serve.service import Service
from trsr.serve.settings import ServeSettings
from trsr.serve.store import Store
from trsr.storage.run_directory import RunDirectory
from trsr.types import Query

CONFIG = f"""{FEW}
[prompts]
item_vectors = 2
recent = 1

[summarize]
strategy = "soft"
block_items = 2
vectors = 3

[train]
learning_rate = 1e-2
validate_steps = 2

[rank]
rankers = ["popular", "llm_zero_shot", "llm"]
"""

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def load(tiny_loader, one_thread):
    return tiny_loader(CONFIG)


@pytest.fixture(scope="module")
def finished(load):
    list(run(load()))
    return load().run.folder


def test_a_run_summarizes_by_vectors(load, finished, monkeypatch):
    assert is_finished(load())
    info = json.loads((finished / "manifest.json").read_text())["stages"]
    assert info["summarize"]["info"]["model"] == "none"
    recommender = Recommender.load(finished, "llm")
    history = recommender.dataset.history("u1")
    found = recommender.recommend(["u1"], k=3)
    assert found["item"].n_unique() == 3
    # the states are in the response cache: another process reads no block of theirs again
    monkeypatch.setattr(SummaryEncoder, "advance", None)
    again = Recommender.load(finished, "llm").recommend(["u1"], k=4)
    assert again["item"].head(3).to_list() == found["item"].to_list()
    monkeypatch.undo()
    # the summary matters, and is the user's own
    candidates = tuple(recommender.catalog.at(number) for number in range(4))
    own, other = (
        recommender.summarized([Query("q", one, candidates)], Silent())[0]
        for one in (history, recommender.dataset.history("u2"))
    )
    assert own.summary.text.splitlines()[0].startswith("title: ")
    swapped = Query("q", history, candidates, type(own.summary)("u1", other.summary.text, 1))
    bare = Query("q", history, candidates, type(own.summary)("u1", "", 0))
    scores = {
        tuple(entry.score for entry in ranked)
        for query in (own, swapped, bare)
        for ranked in recommender.rank([query])
    }
    assert len(scores) == 3


def test_a_person_reads_the_nearest_words(finished):
    recommender = Recommender.load(finished, "llm")
    explained = recommender.explain("u1")
    assert "3 vectors, nearest words: " in explained.summary.text
    assert "rank correlation of " in repr(explained)
    shown = explained.prompt.messages[-1].shown
    assert "[3 vectors, a summary of " in shown
    user = recommender.dataset.cases("test").frame["user"][0]
    lines = "\n".join(user_lines(finished, user))
    assert "the summary (soft), of " in lines
    assert "interactions: 3 vectors, nearest words: " in lines
    others = {one.user for one in read_summaries(finished, ["train"]).values()}
    others -= set(recommender.dataset.cases("test").frame["user"])
    for other in sorted(others)[:1]:
        lines = "\n".join(user_lines(finished, other))
        assert "interactions: 3 vectors, nearest words: " in lines
    assert "3 vectors; `trsr show` reads them" in (finished / "report.html").read_text()


def test_changed_slots_train_anew_and_summaries_stay(load, finished):
    changed, folder = load("summarize.vectors=4"), RunDirectory(finished)
    stale = {stage.name for stage in STAGES if reason(stage, changed, folder)}
    assert "train" in stale
    assert "summarize" not in stale


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("prompts.item_vectors=0", "soft summaries are made of item vectors; set"),
        ("train.epochs=0", "only a trained ranker reads them"),
    ],
)
def test_what_cannot_be_with_soft_summaries_is_refused(load, override, said):
    with pytest.raises(ConfigError, match=said):
        load(override)


def test_the_service_makes_one_step_a_filled_block(finished, tmp_path, monkeypatch):
    made = []
    plain = SummaryEncoder.advance

    def counted(self, before, blocks, numbers, most):
        made.extend(numbers)
        return plain(self, before, blocks, numbers, most)

    monkeypatch.setattr(SummaryEncoder, "advance", counted)
    service = Service(finished, Store(f"sqlite:///{tmp_path / 'state.sqlite'}"), ServeSettings())
    try:
        for number in range(7):  # three blocks of two, and an open one
            event = Event(id=f"e{number}", user="new", item=f"p{number}", time=float(number))
            service.add_events([event])
            _settle(service)
        assert made == [1, 2, 3]
        asked = RecommendRequest(user="new", candidates=["p8", "p9", "p10"])
        first = service.recommend(asked)
        assert made == [1, 2, 3]
        assert first.summary.covers == 6
        edited = service.recommend(asked.model_copy(update={"summary": "title: quite another"}))
        assert [one.score for one in edited.items] != [one.score for one in first.items]
        revisions = service.store.revisions("new")
        keys = [key for one in revisions for key in one.sources]
        cache = service.recommender.summarizer[0].store
        assert len(keys) == len(cache.get(keys)) == 3
        # after a new start nothing is made again
        soft_summaries(service.recommender.model()[0]).forget()
        made.clear()
        assert service.recommend(asked).items == first.items
        assert made == []
        assert service.delete_user("new").outputs == 3
        assert not cache.get(keys)
        # nor is anything left of what the run itself made of its users
        (user, *_), (summary, *_) = zip(
            *((one.user, one) for one in read_summaries(finished, ["test"]).values()), strict=True
        )
        keys = soft_summaries(service.recommender.model()[0]).keys(summary.text)
        assert cache.get(keys)
        service.delete_user(user)
        assert not cache.get(keys)
    finally:
        service.close()
        service.store.close()


def _settle(service):
    for _ in range(600):
        if not service.store.due(1):
            return
        time.sleep(0.05)
    raise AssertionError("the worker did not end")
