"""Fresh summaries: equal to those made anew, with bounded work, whatever comes late or stops."""

from __future__ import annotations

import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from served import BLOCK, ended, event, opened, small_run

from trsr.config import load_config
from trsr.models import open_model
from trsr.models.cached import CachedModel, cached
from trsr.progress import Silent
from trsr.recommender import summary_writer
from trsr.serve.schemas import Revision
from trsr.serve.store import Store
from trsr.serve.summaries import Summaries
from trsr.storage.response_cache import ResponseCache
from trsr.summarize import summarize
from trsr.types import Interaction, Item, UserHistory

STRATEGIES = ("recurrent", "hierarchical")


@pytest.fixture(scope="module", params=STRATEGIES)
def config(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return load_config(small_run(folder, request.param) / "config.toml")


def item(name):
    number = int(name[1:])
    return Item(name, (("title", f"thing{number} {'abcdefgh'[number % 8]} no{number}"),))


class Worker:
    """The worker's steps, made by hand over a store and a cache of their own."""

    def __init__(self, config, folder):
        self.config = config
        self.cache = ResponseCache(folder / "cache.sqlite")
        self.store = Store(f"sqlite:///{folder / 'state.sqlite'}")
        self.model = cached(open_model(config.summarizer), self.cache)
        self.summaries = self.made()

    def made(self, model=None):
        model = model or self.model
        writer = summary_writer(self.config, model)
        sampling = self.config.summary_sampling
        return Summaries(self.store, self.config.summarize, sampling, lambda: (model, writer), item)

    def all(self):
        while self.summaries.round():
            pass

    def latest(self, user):
        return self.store.revisions(user)[-1]

    def anew(self, user):
        """The summary of a user's full blocks by another cache, and what it cost."""
        model = cached(open_model(self.config.summarizer), ResponseCache(":memory:"))
        events = self.store.history(user)
        whole = len(events) // BLOCK * BLOCK
        met = tuple(Interaction(item(one.item), one.time) for one in events[:whole])
        ((_, found),) = summarize(
            [(user, UserHistory(user, met))],
            model=model,
            writer=summary_writer(self.config, model),
            settings=self.config.summarize,
            sampling=self.config.summary_sampling,
            progress=Silent(),
        )
        return found.text, model.counts

    def close(self):
        self.summaries.close()
        self.store.close()
        self.cache.close()


@pytest.fixture
def worker(config, tmp_path):
    made = Worker(config, tmp_path)
    yield made
    made.close()


def test_after_events_one_by_one_the_summary_is_that_of_the_history_anew(worker) -> None:
    for n in range(20):
        worker.store.add_events([event("u", n, n)])
        worker.all()
        revisions = worker.store.revisions("u")
        assert (revisions[-1].covers if revisions else 0) == (n + 1) // BLOCK * BLOCK
        if revisions:
            assert revisions[-1].text == worker.anew("u")[0]
    assert [one.number for one in revisions] == [1, 2, 3, 4, 5, 6]
    assert worker.store.due(9) == []
    assert all(one.tokens > 0 and one.sources for one in revisions)


def test_the_work_of_an_event_is_bounded(worker) -> None:
    """A history of 99 items in blocks of 3; merges are of 2, so a level more than halves."""
    worker.store.add_events([event("u", n, n) for n in range(99)])
    worker.all()
    before = worker.model.counts.asked, worker.model.counts.tokens
    for n in range(99, 102):
        worker.store.add_events([event("u", n, n)])
        worker.all()
    asked = worker.model.counts.asked - before[0]
    tokens = worker.model.counts.tokens - before[1]
    text, anew = worker.anew("u")
    assert worker.latest("u").text == text
    # of three events one fills a block
    assert asked == (1 if worker.config.summarize.strategy == "recurrent" else 3)
    assert anew.asked >= 34
    assert tokens / 3 <= anew.tokens / 15
    assert worker.summaries.counts.calls == worker.model.counts.asked


def test_the_recurrent_strategy_asks_for_no_earlier_step_again(config, tmp_path) -> None:
    if config.summarize.strategy != "recurrent":
        pytest.skip("goes on from cached answers")
    worker = Worker(config, tmp_path)
    worker.store.add_events([event("u", n, n) for n in range(30)])
    worker.all()
    assert (worker.model.counts.asked, worker.model.counts.hits) == (10, 0)
    worker.store.add_events([event("u", n, n) for n in range(30, 33)])
    worker.all()
    assert (worker.model.counts.asked, worker.model.counts.hits) == (11, 0)
    worker.close()


def test_a_burst_is_one_plan_and_several_users_share_a_round(worker) -> None:
    for user in range(5):
        worker.store.add_events([event(f"u{user}", n, n) for n in range(12)])
    rounds = 0
    while worker.summaries.round():
        rounds += 1
    recurrent = worker.config.summarize.strategy == "recurrent"
    assert rounds == (4 if recurrent else 1)  # a step a block; or all blocks at once
    for user in range(5):
        assert len(worker.store.revisions(f"u{user}")) == (4 if recurrent else 1)
        assert worker.latest(f"u{user}").covers == 12


def test_each_revision_says_which_interactions_it_read(worker) -> None:
    worker.store.add_events([event("u", n, n, f"id{n}") for n in range(7)])
    worker.all()
    last = worker.latest("u")
    assert (last.covers, last.last_event) == (6, "id5")
    first = "id3" if worker.config.summarize.strategy == "recurrent" else "id0"
    assert last.first_event == first


def test_a_late_event_drops_what_does_not_hold_and_its_texts(worker) -> None:
    worker.store.add_events([event("u", n, 10 * n) for n in range(12)])
    for _ in range(9):
        worker.all()
    held = worker.store.revisions("u")
    worker.store.add_events([event("u", 50, 45)])  # the sixth, in the second block
    events = worker.store.stored_history("u")
    recurrent = worker.config.summarize.strategy == "recurrent"
    assert worker.summaries.holding(events, held) == (1 if recurrent else 0)
    worker.all()
    assert worker.latest("u").text == worker.anew("u")[0]
    assert worker.latest("u").covers == 12
    assert worker.store.revisions("u")[0] == held[0] or not recurrent
    assert worker.summaries.counts.dropped == (3 if recurrent else 1)
    sources = {key for one in worker.store.revisions("u") for key in one.sources}
    assert sources == set(worker.cache.get([*sources]))
    assert len(worker.cache) == len(sources)  # no text is left that nobody names


def test_an_event_of_the_same_time_comes_behind(worker) -> None:
    worker.store.add_events([event("u", n, 5) for n in range(BLOCK)])
    worker.all()
    first = worker.latest("u")
    worker.store.add_events([event("u", 9, 5)])
    worker.all()
    assert worker.store.revisions("u") == [first]


class Crash(BaseException):
    """As a kill: nothing handles it."""


def crashing(worker, data):
    """Lets the model crash now and then; the prompts that it answered, and its own way back."""
    answered: list[str] = []
    own = worker.model.inner.generate

    def generate(prompts, sampling):
        given = []
        for position, text in own(noted(prompts, given), sampling):
            if data.draw(st.integers(0, 9)) == 0:
                raise Crash
            answered.append(given[position])
            yield position, text

    def noted(prompts, given):
        for prompt in prompts:
            if prompt is not None:
                given.append(prompt.messages[-1].content)
            yield prompt

    worker.model.inner.generate = generate
    return answered, own


def work_through_crashes(worker, data):
    """Works until nothing is due, in a new process after each crash."""
    keep, done = worker.store.add_revision, False
    while not done:
        step = data.draw(st.sampled_from(["before", "behind", "none"]))
        worker.store.add_revision = _failing(keep, step)
        try:
            worker.all()
            done = True
        except Crash:
            worker.summaries = worker.made()
    worker.store.add_revision = keep


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_whatever_order_and_wherever_a_stop_the_end_is_the_same_and_nothing_is_asked_twice(
    config, tmp_path_factory, data
) -> None:
    worker = Worker(config, tmp_path_factory.mktemp("any"))
    answered, own = crashing(worker, data)
    times = data.draw(st.lists(st.integers(0, 30), min_size=1, max_size=16))
    for n, at in enumerate(times):
        worker.store.add_events([event("u", n, at)])
        if data.draw(st.booleans()):
            work_through_crashes(worker, data)
    worker.model.inner.generate = own
    worker.all()
    revisions = worker.store.revisions("u")
    whole = len(times) // BLOCK * BLOCK
    assert [one.covers for one in revisions[-1:]] == ([whole] if whole else [])
    assert [one.text for one in revisions[-1:]] == ([worker.anew("u")[0]] if whole else [])
    assert [one.number for one in revisions] == [*range(1, len(revisions) + 1)]
    assert worker.store.due(9) == []
    sources = [key for one in revisions for key in one.sources]
    assert len(sources) == len(set(sources))
    assert set(worker.cache.get(sources)) == set(sources)
    # what a crash interrupted may be asked again, what was answered may not
    assert len(answered) == len(set(answered)) or times != sorted(times)
    worker.close()


def _failing(keep, step):
    """`add_revision` that crashes before or behind its write, once."""
    left = [step != "none"]

    def add(revision):
        crash, left[0] = left[0], False
        if crash and step == "before":
            raise Crash
        keep(revision)
        if crash:
            raise Crash

    return add


def test_a_deleted_user_leaves_no_text(worker) -> None:
    for user in ("u", "v"):
        worker.store.add_events([event(user, n + (40 if user == "v" else 0), n) for n in range(9)])
    worker.all()
    kept = worker.store.revisions("v")
    worker.store.add_events([event("u", 20 + n, 20 + n) for n in range(BLOCK)])
    plan = worker.summaries.plan("u")
    assert plan is not None
    # a crash between the text and its revision: no revision names what is cached
    list(worker.summaries._texts({"u": plan}, worker.model, worker.summaries._opened()[1]))
    removed, outputs = worker.summaries.delete("u")
    assert (removed.events, outputs > 3) == (12, True)
    assert worker.store.revisions("u") == []
    assert len(worker.cache) == len({key for one in kept for key in one.sources})
    worker.store.add_events([event("u", n, n) for n in range(3)])  # a new user of the same name
    worker.all()
    assert worker.latest("u").number == 1


def test_a_prompt_that_does_not_fit_stops_nobody_else(worker) -> None:
    worker.model.inner.context_tokens = 10
    broken = Worker.made(worker)
    worker.store.add_events([event("u", n, n) for n in range(3)])
    broken.round()
    assert broken.counts.failed == 1
    assert worker.store.due(9) == []  # until the next event
    assert worker.store.revisions("u") == []
    broken.close()


def test_a_model_that_is_away_is_tried_again(config, tmp_path) -> None:
    worker = Worker(config, tmp_path)

    class Away(CachedModel):
        away = True

        def generate(self, prompts, sampling):
            from trsr.errors import ModelError

            if self.away:
                raise ModelError("the endpoint is away")
            return super().generate(prompts, sampling)

    model = Away(worker.model.inner, worker.cache)
    summaries = worker.made(model)
    worker.store.add_events([event("u", n, n) for n in range(3)])
    summaries.start()
    summaries.call()
    ends = time.monotonic() + 20
    while summaries.healthy:
        assert time.monotonic() < ends
        time.sleep(0.01)
    model.away = False
    while not worker.store.revisions("u"):
        assert time.monotonic() < ends
        time.sleep(0.01)
    summaries.close()
    worker.close()


def test_keywords_cost_no_model(tmp_path) -> None:
    run = small_run(tmp_path / "k", "keywords", ("popular", "llm_zero_shot"))
    service = opened(run, tmp_path / "state.sqlite")
    service.add_events([event("new", n, n) for n in range(7)])
    ends = time.monotonic() + 20
    while not service.store.revisions("new"):
        assert time.monotonic() < ends
        time.sleep(0.01)
    found = service.store.revisions("new")[-1]
    assert found.covers == 6
    assert found.text
    assert found.sources == ()
    assert isinstance(found, Revision)
    ended(service)
