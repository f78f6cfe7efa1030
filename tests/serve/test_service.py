"""The service's functions over a small run: rankings, what-ifs, new users and items, deletion."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from served import BLOCK, ended, event, opened, small_run

from trsr.cli.show import user_lines
from trsr.errors import DataError, ModelError
from trsr.recommender import Recommender
from trsr.serve.batching import TooLateError
from trsr.serve.schemas import InlineItem, NamedFields, RecommendRequest, ScoreRequest
from trsr.serve.service import Service, UnknownNameError
from trsr.storage.response_cache import ResponseCache
from trsr.types import Interaction, Item, Query, Summary, UserHistory

MEMBERS = 'rank.blend.members=["popular", "item_knn", "bm25"]'


BOTH = pytest.mark.parametrize("run", ["recurrent", "hierarchical"], indirect=True)
"""For tests that read summaries."""


@pytest.fixture(scope="module")
def run(request, tmp_path_factory):
    return small_run(tmp_path_factory.mktemp("served"), getattr(request, "param", "recurrent"))


@pytest.fixture
def service(run, tmp_path):
    made = opened(run, tmp_path / "state.sqlite")
    yield made
    ended(made)


def summarized(service, user, covers):
    """Waits for the background worker."""
    ends = time.monotonic() + 30
    while not (found := service.store.revisions(user)) or found[-1].covers < covers:
        assert time.monotonic() < ends, "the worker does not come"
        time.sleep(0.01)
    return found


def ask(service, **said):
    return service.recommend(RecommendRequest(**said))


def scores(found):
    return {one.item: one.score for one in found.items}


@BOTH
def test_scores_are_those_of_the_runs_own_path(run, service) -> None:
    service.add_events([event("new", n, n) for n in range(8)])
    summarized(service, "new", 6)
    candidates = [f"p{n}" for n in range(10, 25)]
    found = ask(service, user="new", candidates=candidates, k=20)
    catalog = service.recommender.catalog
    history = UserHistory("new", tuple(Interaction(catalog[f"p{n}"], n) for n in range(8)))
    summary = Summary("new", found.summary.text, 6)
    query = Query("q", history, tuple(map(catalog.__getitem__, candidates)), summary)
    (expected,) = Recommender.load(run).rank([query])
    assert [(one.item, one.score) for one in found.items] == [
        (entry.item, entry.score) for entry in expected.entries
    ]
    assert found.summary.covers == 6
    assert found.summary.revision == service.store.revisions("new")[-1].number
    assert [one.item for one in found.recent] == ["p6", "p7"]
    assert found.timings.total >= found.timings.model > 0
    assert [one.rank for one in found.items] == [*range(1, 16)]


def test_batched_requests_have_the_scores_of_each_alone(service) -> None:
    for user in range(12):
        service.add_events([event(f"u{user}/x", (user + n) % 30, n) for n in range(7)])
        summarized(service, f"u{user}/x", 6)
    requests = [
        RecommendRequest(user=f"u{user}/x", candidates=[f"p{n}" for n in range(user, user + 9)])
        for user in range(12)
    ]
    alone = [scores(service.recommend(one)) for one in requests]
    with ThreadPoolExecutor(12) as pool:
        together = [scores(one) for one in pool.map(service.recommend, requests * 3)]
    assert together == alone * 3


@BOTH
def test_a_runs_own_user_has_the_runs_summary_without_a_call_of_the_model(service) -> None:
    model, _ = service.recommender.summarizer
    user = service.recommender.dataset.cases("test").frame["user"][0]
    before = model.counts.asked
    view = service.user(user)
    assert view.blocks[0].end == BLOCK
    assert view.behind == len(view.events) - view.revisions[-1].covers
    found = ask(service, user=user)
    assert found.summary.text == view.revisions[-1].text
    # the case's history was summarized by the run, with what was clicked then it may be longer
    assert view.revisions
    assert model.counts.asked - before <= 1


@BOTH
def test_a_new_user_is_answered_at_once_and_a_history_in_the_request_too(service) -> None:
    assert len(ask(service).items) == 10
    found = ask(service, history=["p1", "p2", InlineItem(id="mine", fields={"title": "a drill"})])
    assert [one.title for one in found.recent][-1] == "a drill"
    assert not {"p1", "p2"} & {one.item for one in found.items}
    assert found.summary.covers == 3
    assert found.summary.revision is None
    longer = ask(service, history=[f"p{n}" for n in range(8)])
    assert longer.summary.covers == 6
    with pytest.raises(UnknownNameError, match="no user 'nobody'"):
        ask(service, user="nobody")
    with pytest.raises(UnknownNameError, match="no item 'p99'"):
        ask(service, candidates=["p99"])


def test_a_new_item_can_be_found_and_ranked_at_once(service) -> None:
    popular = service.recommender.catalog["p1"].fields
    # its nearest neighbours by text are those of p1, and so is its place
    assert service.put_item("fresh", dict(popular)).result == "new"
    assert service.put_item("fresh", dict(popular) | {"brand": "Ajax"}).result == "changed"
    service.put_item("odd/one", {"title": "zzz"})
    service.add_events([event("new", n, n) for n in range(5, 9)])
    found = ask(service, user="new", n=28, k=28)
    assert "fresh" in scores(found)
    shown = service.item("fresh")
    assert shown.fields["brand"] == "Ajax"
    ranked = ask(service, user="new", candidates=["fresh", "odd/one", "p20"])
    assert len({one.score for one in ranked.items}) > 1
    service.add_events([event("new", 0, 99).model_copy(update={"item": "fresh"})])
    assert ask(service, user="new").recent[-1].item == "fresh"
    assert "fresh" not in scores(ask(service, user="new", n=28, k=28))


def many(count=100):
    """More new items than a request waits for."""
    return [NamedFields(id=f"new{n}", fields={"title": f"brush {n}"}) for n in range(count)]


def read(service):
    """Waits until all new items are read."""
    ends = time.monotonic() + 30
    while service.items.waiting:
        assert time.monotonic() < ends, "the reader does not come"
        time.sleep(0.01)


def test_many_new_items_are_read_while_requests_are_answered(run, tmp_path, monkeypatch) -> None:
    goes_on, plain = threading.Event(), Service._read
    monkeypatch.setattr(Service, "_read", lambda *asked: goes_on.wait(30) and plain(*asked))
    service = opened(run, tmp_path / "state.sqlite", ranker="popular")
    service.put_items(many())
    found = ask(service, history=["p1"], n=999, k=999)
    assert (len(found.items), found.items_waiting) == (len(service.recommender.catalog) - 1, 100)
    assert service.load()["items_waiting"] == 100
    # what a request names it gets
    assert len(ask(service, history=["new1"], candidates=["new2", "p1"]).items) == 2
    threading.Timer(0.1, goes_on.set).start()
    ended(service)  # in the midst
    again = opened(run, tmp_path / "state.sqlite", ranker="popular")
    read(again)
    found = ask(again, history=["p1"], n=999, k=999)
    assert (len(found.items), found.items_waiting) == (len(again.recommender.catalog) + 99, 0)
    ended(again)


def test_new_items_that_cannot_be_read_keep_nobody_waiting(run, tmp_path, monkeypatch) -> None:
    plain, failed = Service._read, []

    def fails_once(service, items):
        if not failed:
            failed.append(items)
            raise ModelError("the embedding model cannot be had")
        plain(service, items)

    monkeypatch.setattr(Service, "_read", fails_once)
    service = opened(run, tmp_path / "state.sqlite", ranker="popular")
    service.put_item("fresh", {"title": "brush"})
    found = ask(service, history=["p1"], n=99, k=99)
    assert found.items_waiting == ("fresh" not in scores(found))
    read(service)  # it is tried again
    assert "fresh" in scores(ask(service, history=["p1"], n=99, k=99))
    ended(service)


@BOTH
def test_what_would_be_without_an_item_or_with_another_summary_is_not_stored(service) -> None:
    service.add_events([event("new", n, n) for n in range(8)])
    summarized(service, "new", 6)
    model, _ = service.recommender.summarizer
    kept, stored = service.store.revisions("new"), len(model.store)
    candidates = [f"p{n}" for n in range(10, 25)]
    plain = ask(service, user="new", candidates=candidates, k=20)
    edited = ask(service, user="new", candidates=candidates, k=20, summary="brush brush cable.")
    assert edited.summary.text == "brush brush cable."
    assert scores(edited) != scores(plain)
    without = ask(service, user="new", candidates=candidates, k=20, exclude=["p1", "p7"])
    assert without.summary.revision is None
    assert without.summary.covers == 6
    assert [one.item for one in without.recent] == ["p5", "p6"]
    anew = ask(service, history=[f"p{n}" for n in (0, 2, 3, 4, 5, 6)], candidates=candidates, k=20)
    assert without.summary.text == anew.summary.text
    assert scores(without) == scores(anew)
    assert ask(service, user="new", candidates=candidates, k=20, summary=" ").summary is None
    assert service.store.revisions("new") == kept
    assert len(model.store) == stored
    assert scores(ask(service, user="new", candidates=candidates, k=20)) == scores(plain)


@BOTH
def test_an_explanation_shows_blocks_summary_and_the_prompt(service) -> None:
    service.add_events([event("new", n, n) for n in range(8)])
    summarized(service, "new", 6)
    found = service.explain(RecommendRequest(user="new", candidates=["p20", "p21"]))
    assert [(one.start, one.end) for one in found.blocks] == [(0, 3), (3, 6), (6, 8)]
    hierarchical = service.recommender.config.summarize.strategy == "hierarchical"
    assert [bool(one.text) for one in found.blocks] == [hierarchical, hierarchical, False]
    text = "\n".join(message.content for message in found.prompt)
    assert found.summary.text in text
    assert found.items[0].title in text
    assert found.items[1].title not in text


def test_an_explanation_says_what_members_and_words_add(tmp_path) -> None:
    members = 'rank.blend.members=["popular", "bm25", "llm_zero_shot"]'
    rankers = ("popular", "bm25", "llm_zero_shot", "blend")
    service = opened(
        small_run(tmp_path, rankers=rankers, settings=[members]), tmp_path / "s.sqlite"
    )
    service.put_item("fresh", dict(service.recommender.catalog["p4"].fields))
    asked = RecommendRequest(history=["p1", "p2"], k=99)
    prompts = service.load()["model_prompts"]
    found, plain = service.explain(asked), service.recommend(asked)
    assert service.load()["model_prompts"] - prompts <= 2 * len(found.items)  # once each
    assert scores(found) == scores(plain)
    assert "fresh" in scores(found)
    assert found.weights == service.recommender.fitted("blend").weights_
    named = ["blend", "popular", "bm25", "llm_zero_shot"]
    for item in found.items:
        whole, *parts = item.scores
        assert [one.ranker for one in item.scores] == named
        assert whole.score == item.score == pytest.approx(sum(one.added for one in parts))
    alone = opened(tmp_path / "run", tmp_path / "t.sqlite", ranker="bm25")
    for item in alone.explain(asked).items:
        ((ranker, score, added, words),) = [tuple(dict(one).values()) for one in item.scores]
        assert (ranker, score, added) == ("bm25", item.score, None)
        if len(words) < 5:
            assert score == pytest.approx(sum(one.added for one in words))
        shown = " ".join(alone.item(item.item).fields.values()).lower()
        assert all(one.word in shown and one.added > 0 for one in words)
        assert [one.added for one in words] == sorted((o.added for o in words), reverse=True)
    # the library and `trsr show` say the same
    library = Recommender.load(tmp_path / "run", "blend").explain({"a": ["p1", "p2"]}, 99)
    given = {one.item: one.scores[2].words for one in found.items}
    for item, words in library.words["bm25"].items():
        assert [word for word, _ in words] == [one.word for one in given[item]]
    assert "      bm25 reads: " in repr(library)
    assert ">bm25 reads: " in library._repr_html_()
    user = alone.recommender.dataset.cases("test").frame["user"][0]
    shown = "\n".join(user_lines(tmp_path / "run", user))
    weight = f"{found.weights['popular']:+.2f}"
    assert f"ranked by blend, {weight} popular" in shown
    ended(service)
    ended(alone)


@BOTH
def test_deleting_a_user_leaves_nothing_behind(run, service) -> None:
    cases = service.recommender.dataset.cases("test").frame
    user, other = cases["user"][0], cases["user"][1]
    service.user(user)
    cache = ResponseCache(service.recommender.config.run.cache)
    own = service._run_keys(user)
    assert cache.get(own)
    others = set(cache.get(service._run_keys(other)))
    found = service.delete_user(user)
    assert found.outputs > 0
    assert not cache.get(own)
    # two users of one history share what was said of it
    assert set(cache.get(service._run_keys(other))) == others - set(own)
    with pytest.raises(UnknownNameError):
        service.user(user)
    assert not service.store.revisions(user)
    cache.put_all({key: [0.0, -1.0] for key in own})  # as the other tests find it
    cache.close()


def test_when_all_users_are_deleted_no_answer_of_any_model_is_left(tmp_path) -> None:
    rankers = ("popular", "llm_zero_shot")
    whole = ("data.candidates=full", "rank.retrieve_k=4")
    service = opened(
        small_run(tmp_path / "whole", rankers=rankers, settings=whole), tmp_path / "state.sqlite"
    )
    cache = ResponseCache(service.recommender.config.run.cache)
    before = len(cache)
    removed = [service.delete_user(row.user).outputs for row in service.store.users(limit=1000)]
    assert sum(removed) == before > 0
    assert len(cache) == 0
    cache.close()
    ended(service)


def test_time_is_over_and_callers_that_left_cost_no_pass(run, tmp_path) -> None:
    service = opened(run, tmp_path / "state.sqlite", deadline=1e-6)
    service.add_events([event("new", n, n) for n in range(2)])
    model, _ = service.recommender.model()
    passes = model.counts.passes
    with pytest.raises(TooLateError, match="time is over"):
        ask(service, user="new")
    ended(service)
    service = opened(run, tmp_path / "state.sqlite")
    gone = threading.Event()
    gone.set()
    with pytest.raises(TooLateError, match="given up"):
        service.recommend(RecommendRequest(user="new"), gone)
    assert model.counts.passes == passes
    ended(service)


def test_a_broken_model_is_a_clear_error(service, monkeypatch) -> None:
    service.add_events([event("new", n, n) for n in range(2)])
    model, _ = service.recommender.model()

    def broken(prompts, answers):
        raise OSError("the endpoint is away")

    monkeypatch.setattr(model.inner, "score", broken)
    with pytest.raises(ModelError, match="failed"):
        ask(service, user="new")
    monkeypatch.undo()
    assert ask(service, user="new").items
    assert service.ready()


def test_a_run_that_cannot_propose_is_not_ready_and_its_log_says_why(tmp_path, caplog) -> None:
    settings = ["rank.retriever=title_search", "rank.retrieve_k=9"]
    run = small_run(tmp_path, "none", ("llm_zero_shot",), settings)
    service = opened(run, tmp_path / "state.sqlite")
    assert not service.ready()
    assert not service.ready()
    assert caplog.text.count("not ready: the ranker title_search: the model scripted") == 1
    ended(service)


def test_score_has_the_shape_of_vllm(service) -> None:
    found = service.score(
        ScoreRequest(text_1="brush steel", text_2=["steel brush", "glove mask", "steel brush"])
    )
    assert [one.index for one in found.data] == [0, 1, 2]
    first, second, third = (one.score for one in found.data)
    assert 0 < second < first == third < 1
    assert found.usage.total_tokens > 0
    pairs = service.score(ScoreRequest(text_1=["brush", "mask"], text_2=["a brush", "a brush"]))
    assert pairs.data[0].score > pairs.data[1].score
    with pytest.raises(DataError, match="text_1 has 2 texts and text_2 3"):
        service.score(ScoreRequest(text_1=["a", "b"], text_2=["a", "b", "c"]))


def test_numbers_of_what_goes_on(service) -> None:
    service.add_events([event("new", n, n) for n in range(3)])
    summarized(service, "new", 3)
    ask(service, user="new")
    load = service.load()
    assert load["model_passes"] >= 1
    assert load["summary_revisions"] >= 1
    assert load["summary_calls"] + load["summary_hits"] >= 1
    assert all(np.isfinite(value) for value in load.values())


@BOTH
def test_a_stop_in_the_middle_leaves_the_rest_due(run, tmp_path) -> None:
    service = opened(run, tmp_path / "state.sqlite")
    service.summaries.close()
    service.add_events([event("new", n, n) for n in range(6)])
    ended(service)
    again = opened(run, tmp_path / "state.sqlite")
    assert summarized(again, "new", 6)
    ended(again)


def test_ids_alone_rank_new_items_by_their_neighbours(tmp_path) -> None:
    run = small_run(tmp_path / "ids", "none", ("popular", "item_knn"))
    service = opened(run, tmp_path / "state.sqlite")
    fields = dict(service.recommender.catalog["p4"].fields)
    service.put_item("like p4", fields)
    service.put_item("like nothing", {"title": "qqq"})
    service.add_events([event("new", n, n) for n in (0, 1, 2)])
    found = ask(service, user="new", candidates=["p4", "p5", "like p4", "like nothing"], k=9)
    known = scores(found)
    plain = scores(ask(service, user="new", candidates=["p4", "p5"]))
    assert {name: known[name] for name in plain} == plain
    assert known["like nothing"] == min(known.values())
    assert found.summary is None
    assert service.user("new").blocks == []
    # a history of new items alone is read by what stands nearest
    service.add_events([event("other", 0, 0).model_copy(update={"item": "like p4"})])
    service.add_events([event("same", 4, 0)])
    both = [
        scores(ask(service, user=user, candidates=[f"p{n}" for n in range(5, 20)], k=20))
        for user in ("other", "same")
    ]
    like = Item("like p4", tuple(fields.items()))
    ((near, _),) = service.recommender.new_items.neighbours([like])
    assert service.recommender.catalog.at(int(near[0])).id == "p4"
    assert both[0] == both[1]
    ended(service)


def test_as_many_items_as_are_asked_for_are_proposed_at_both_doors(tmp_path) -> None:
    run = small_run(tmp_path / "few", "none", ("popular",), ["rank.retrieve_k=4"])
    service, library = opened(run, tmp_path / "state.sqlite"), Recommender.load(run)
    for k in (3, 4, 9, 1000):
        shown = library.recommend({"somebody": ["p1", "p2"]}, k)
        found = ask(service, history=["p1", "p2"], k=k)
        assert len(found.items) == len(shown) == min(k, len(library.catalog) - 2)
    assert len(ask(service, history=["p1", "p2"], k=9, n=5).items) == 5
    ended(service)


def test_a_filter_leaves_as_many_as_are_wanted_at_both_doors(tmp_path) -> None:
    run = small_run(tmp_path / "few", "none", ("popular", "bm25"), ["rank.retrieve_k=4"])
    service, library = opened(run, tmp_path / "state.sqlite"), Recommender.load(run)
    brand = library.catalog["p4"].fields[1][1]
    shown = library.recommend({"somebody": ["p1", "p2"]}, 9, where={"brand": brand})
    asked = {"history": ["p1", "p2"], "k": 9, "where": {"brand": brand.lower()}}
    assert scores(ask(service, **asked)) == dict(shown.select("item", "score").rows())
    assert len(shown) > 4
    # what came since counts, and with the text that it has now
    service.put_item("fresh", {"title": "A brush", "brand": brand})
    service.put_item("p4", {"title": "A brush", "brand": "another"})
    found = {*scores(ask(service, **asked | {"k": 99}))}
    before = library.recommend({"somebody": ["p1", "p2"]}, 99, where={"brand": brand})["item"]
    assert found == {"fresh", *before} - {"p4"}
    given = ask(service, **asked, candidates=["p4", "fresh"])
    assert [one.item for one in given.items] == ["fresh"]
    with pytest.raises(DataError, match="the history holds every item that matches"):
        ask(service, history=[*before, *found, "p1", "p2"], where={"brand": brand})
    with pytest.raises(DataError, match="where: no item has brand = '1998' or '7'; brand is, say"):
        ask(service, history=["p4"], where={"brand": [1998, 7.0]})
    with pytest.raises(DataError, match="where: no item has brand = 'nobody'; brand is, say, "):
        ask(service, history=["p4"], where={"brand": "nobody"})
    ended(service)


def test_an_item_whose_text_was_changed_is_proposed_with_the_new_one(tmp_path) -> None:
    run = small_run(tmp_path / "changed", "none", ("bm25", "item_knn"))
    service = opened(run, tmp_path / "state.sqlite", ranker="bm25")
    before = ask(service, history=["p1", "p2"], n=28, k=28)
    name = before.items[0].item
    service.put_item(name, {"title": "qqq"})
    for own in (service, opened(run, tmp_path / "state.sqlite", ranker="item_knn")):
        found = ask(own, history=["p1", "p2"], n=28, k=28)
        assert {one.item for one in found.items} == {one.item for one in before.items}
        (shown,) = (one for one in found.items if one.item == name)
        (named,) = ask(own, history=["p1", "p2"], candidates=[name]).items
        assert (shown.title, shown.score) == ("qqq", named.score)
        ended(own)


def test_the_library_judges_new_items_as_the_service_does(tmp_path, caplog) -> None:
    run = small_run(tmp_path / "ids", "none", ("popular", "bm25", "blend"), [MEMBERS])
    service, library = opened(run, tmp_path / "state.sqlite"), Recommender.load(run)
    fields = tuple(service.recommender.catalog["p4"].fields)
    new = [Item("like p4", fields), Item("like nothing", (("title", "qqq"),))]
    given = [InlineItem(id=one.id, fields=dict(one.fields)) for one in new]
    found = ask(service, history=["p1", given[0]], candidates=["p4", "p5", *given], k=9)
    seen = [Interaction(library.catalog["p1"], 0.0), Interaction(new[0], 1.0)]
    candidates = (library.catalog["p4"], library.catalog["p5"], *new)
    history = UserHistory("somebody", tuple(seen))
    (ranked,) = library.rank([Query("q", history, candidates)])
    assert {one.item: one.score for one in ranked.entries} == scores(found)
    assert caplog.text.count("new items: 2, such as 'like p4'; their scores by popular, item_") == 1
    # each member of the blend judged it, so it stands where p4 does; nothing is like the other
    own = scores(found)
    assert own["like p4"] == pytest.approx(own["p4"], abs=0.5)
    popular = Recommender.load(run, "popular")
    (alone,) = popular.rank([Query("q", history, candidates)])
    by_item = {one.item: one.score for one in alone.entries}
    assert 0 < by_item["like p4"] <= max(by_item.values())
    assert by_item["like nothing"] == min(by_item.values())
    ended(service)


def test_probabilities_are_calibrated_where_the_run_can_tell(tmp_path, run) -> None:
    from trsr.serve.calibration import fit

    draw = np.random.default_rng(0)
    margins = draw.normal(0, 2, 4000)
    right = (draw.random(4000) < 1 / (1 + np.exp(-(0.5 * margins - 1)))).astype(float)
    curve = fit(margins, right)
    assert curve.slope == pytest.approx(0.5, abs=0.06)
    assert curve.shift == pytest.approx(-1, abs=0.12)
    for low in (-2, 0, 2):
        near = (margins > low) & (margins < low + 1)
        mean = np.mean([curve(float(one)) for one in margins[near]])
        assert mean == pytest.approx(right[near].mean(), abs=0.05)
    assert fit(-margins, right) is None  # no better than chance: worse
    assert fit(margins[:9], right[:9]) is None
    assert fit(np.zeros(100), np.arange(100) % 2.0) is None
    service = opened(run, tmp_path / "state.sqlite")
    found = ask(service, history=["p1"])
    # fourteen cases are too few
    assert {one.p_yes for one in found.items} == {None}
    service.__dict__["_calibration"] = curve
    found = ask(service, history=["p1"])
    assert [one.p_yes for one in found.items] == [curve(one.score) for one in found.items]
    ended(service)


def test_a_ranker_without_prompts_shows_none(tmp_path, run) -> None:
    service = opened(run, tmp_path / "state.sqlite", ranker="popular")
    found = service.explain(RecommendRequest(history=["p1", "p2"]))
    assert (found.prompted, found.prompt, found.recent) == (False, [], [])
    assert service.item("p1").read == []
    ended(service)


def test_an_item_says_which_of_its_fields_prompts_show(tmp_path) -> None:
    shown = small_run(tmp_path, settings=["prompts.fields=['title']"])
    service = opened(shown, tmp_path / "state.sqlite")
    found = service.item("p1")
    assert found.read == ["title"]
    assert {"title"} < set(found.fields)
    assert ask(service, history=["p1"]).prompted
    ended(service)


def test_a_run_whose_lists_are_damaged_is_served_without_probabilities(tmp_path, run) -> None:
    import shutil

    damaged = tmp_path / "damaged"
    shutil.copytree(run, damaged)
    (damaged / "rankings.parquet").write_bytes(b"nothing")
    service = opened(damaged, tmp_path / "state.sqlite")
    assert ask(service, history=["p1"]).items[0].p_yes is None
    ended(service)
