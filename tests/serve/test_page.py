"""The page in a real browser, before a real server: what a person sees, tries and reaches."""

from __future__ import annotations

import os
import re
import shutil
import time

import numpy as np
import pytest
from served import ended, event, opened, serving, small_run

from trsr.serve.schemas import RecommendRequest

playwright = pytest.importorskip("playwright.sync_api", reason="the browser's driver is missing")
expect = playwright.expect

# its tag is none of those that are cut out of texts
DRAWING = '<svg onload="window.hurt=1">'
IMAGE = '<img src=x onerror="window.hurt=1"><script>window.hurt=1</script>'
TURNED = "\u202egnp.elbissimerri\u202c \u2067\u05d0\u05d1"
LONG = "endless " * 1250
HOSTILE = f"{IMAGE}/../{'x' * 100}"


def summarized(service, user, covers):
    """Waits for the background worker."""
    ends = time.monotonic() + 60
    while not (found := service.store.revisions(user)) or found[-1].covers < covers:
        assert time.monotonic() < ends, "the worker does not come"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    made = opened(small_run(folder), folder / "state.sqlite")
    for name, text in {"p100": DRAWING, "p101": TURNED, "p102": LONG}.items():
        made.put_item(name, {"title": text, f"of {IMAGE}": text})
    for start in (0, 3, 6):  # three blocks, one after another
        made.add_events([event("ann", n, 1e9 + 1e5 * n) for n in range(start, start + 3)])
        summarized(made, "ann", start + 3)
    made.add_events([event("ann", 9, 1e9 + 1e6)])
    made.add_events([event(HOSTILE, n, at) for at, n in enumerate((100, 101, 102, 1, 2, 3))])
    summarized(made, HOSTILE, 6)
    yield made
    ended(made)


@pytest.fixture(scope="module")
def address(service):
    with serving(service) as found:
        yield found


@pytest.fixture(scope="module")
def browser():
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if not found:
        pytest.skip("there is no Chromium: install the package chromium")
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with playwright.sync_playwright() as driver:
        made = driver.chromium.launch(executable_path=found, args=arguments)
        yield made
        made.close()


@pytest.fixture
def page(browser, address):
    """A page whose errors, and whose requests to other hosts, fail the test."""
    context = browser.new_context(base_url=address, locale="en-GB", reduced_motion="reduce")
    made = context.new_page()
    made.set_default_timeout(20_000)
    expect.set_options(timeout=20_000)
    wrong = []
    made.on("pageerror", lambda error: wrong.append(str(error)))
    made.on("console", lambda said: said.type == "error" and wrong.append(said.text))
    made.on(
        "request",
        lambda asked: asked.url.startswith(address) or wrong.append(f"fetched {asked.url}"),
    )
    made.wrong = wrong
    yield made
    assert not wrong
    context.close()


def opened_user(page, user="ann"):
    page.goto(f"/#/users/{user}")
    expect(page.locator(".ranking li").first).to_be_visible()
    return page


def ranking(page):
    return page.locator(".ranking a").all_inner_texts()


def settled(page):
    """Waits until the ranking that was asked for is shown."""
    expect(page.locator(".trying")).to_be_visible()
    expect(page.locator(".panel")).to_have_attribute("aria-busy", "false")
    return ranking(page)


def test_search_finds_a_user_with_the_keyboard_alone(page, service) -> None:
    page.goto("/")
    users = len(service.store.users())
    expect(page.get_by_role("row")).to_have_count(1 + users)
    page.keyboard.press("Control+k")
    page.keyboard.type("u1")
    listed = page.get_by_role("option")
    expect(listed).to_have_count(5)
    assert "u1" in listed.first.inner_text()
    page.keyboard.press("ArrowDown")
    expect(page.locator("#found [aria-selected=true]")).to_contain_text("u10")
    assert page.locator("#search").get_attribute("aria-activedescendant") == "found-1"
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("u10")
    assert page.title() == "u10 · trsr"
    expect(page.get_by_role("heading", level=1)).to_be_focused()
    page.keyboard.press("Control+k")
    page.keyboard.type("nobody")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("there is no user 'nobody'")
    page.wrong.clear()  # the browser notes the 404


def test_the_timeline_shows_blocks_and_each_summary_beside_what_it_covers(page, service) -> None:
    opened_user(page)
    view = service.user("ann")
    blocks = page.locator(".block")
    assert blocks.count() == len(view.blocks) == 4
    for n, block in enumerate(view.blocks):
        titles = [one.title for one in view.events[block.start : block.end]]
        assert blocks.nth(n).locator("label bdi").all_inner_texts() == titles
    assert [one.covers for one in view.revisions] == [3, 6, 9]
    for n, revision in enumerate(view.revisions):
        note = blocks.nth(n).locator(".note")
        expect(note.locator("h4")).to_contain_text(f"Revision {revision.number}")
        assert note.locator(".text").text_content() == revision.text
    expect(blocks.nth(3).locator(".notes")).to_contain_text("Not summarized yet")
    assert page.locator(".events li.covered").count() == 9
    assert page.locator(".events li.recent").count() == 2
    expect(page.get_by_text("10 interactions")).to_be_visible()
    expect(page.locator("time").first).to_have_attribute("datetime", "2001-09-09T01:46:40.000Z")


def test_the_difference_of_two_revisions_holds_both_texts(page, service) -> None:
    opened_user(page)
    before, after = (one.text for one in service.user("ann").revisions[:2])
    assert before != after
    shown = page.locator(".block").nth(1).locator(".difference")
    bare = """(node, gone) => {
        const copy = node.cloneNode(true);
        copy.querySelectorAll(`.hidden, ${gone}`).forEach((one) => one.remove());
        return copy.textContent;
    }"""

    def words(text):
        return "".join(text.split())

    assert words(shown.evaluate(bare, "del")) == words(after)
    assert words(shown.evaluate(bare, "ins")) == words(before)
    assert shown.locator("ins").count()
    expect(shown).to_be_visible()
    page.get_by_label("Show what changed").uncheck()
    expect(shown).to_be_hidden()
    expect(page.locator(".block").nth(1).locator(".text")).to_be_visible()


def test_marked_words_are_those_that_changed(page) -> None:
    page.goto("/")
    found = page.evaluate(
        """async (pairs) => {
            const { changes } = await import("./page/diff.js");
            return pairs.map(([before, after]) => changes(before, after));
        }""",
        [
            ["likes quiet films", "likes loud films"],
            ["same", "same"],
            ["", "all new"],
            ["a, b and c", "x, y and z"],
            ["静かな映画が好き", "静かな音楽が好き"],
            ["w " * 3000, "v " * 3000],
        ],
    )
    assert found[0] == [["same", "likes "], ["gone", "quiet "], ["new", "loud "], ["same", "films"]]
    assert found[1] == [["same", "same"]]
    assert found[2] == [["new", "all new"]]
    assert found[3] == [["gone", "a, b and c"], ["new", "x, y and z"]]
    assert [kind for kind, _ in found[4]] == ["same", "gone", "new", "same"]
    assert [kind for kind, _ in found[5]] == ["gone", "new"]


def test_taking_an_item_out_changes_the_ranking_and_putting_it_back_restores_it(
    page, service
) -> None:
    from trsr.serve.schemas import RecommendRequest

    opened_user(page)
    before = ranking(page)
    page.locator("#event-9").uncheck()
    after = settled(page)
    assert sorted(after) == sorted(before)
    assert after != before
    view = service.user("ann")
    base = service.recommend(RecommendRequest(user="ann", k=50))
    expected = service.recommend(
        RecommendRequest(
            user="ann",
            k=50,
            candidates=[one.item for one in base.items],
            exclude=[view.events[9].item],
        )
    )
    assert after == [one.title for one in expected.items]
    ranks = {one.item: one.rank for one in base.items}
    moved = [ranks[one.item] - one.rank for one in expected.items]
    said = ["" if not by else f"up {by}" if by > 0 else f"down {-by}" for by in moved]
    shown = page.locator(".move").evaluate_all(
        "moves => moves.map((one) => one.querySelector('.hidden')?.textContent ?? '')"
    )
    assert shown == said
    expect(page.locator("#said")).to_contain_text(
        f"{np.count_nonzero(moved)} of 23 candidates moved"
    )
    assert page.locator(".events li.out").count() == 1
    page.get_by_role("button", name="Put everything back").click()
    expect(page.locator(".trying")).to_be_hidden()
    assert ranking(page) == before
    assert page.locator(".events input:checked").count() == 10


def test_editing_the_summary_changes_the_ranking_and_is_not_stored(page, service) -> None:
    opened_user(page)
    before = ranking(page)
    stored = service.user("ann").revisions[-1].text
    field = page.get_by_label("The summary that the ranker reads")
    expect(field).to_have_value(stored)
    field.fill("tape hinge copper lamp")
    after = settled(page)
    assert sorted(after) == sorted(before)
    assert after != before
    expect(page.locator("#summary-note")).to_contain_text("does not store")
    expect(page.locator(".reads .difference ins")).to_contain_text("hinge")
    assert service.user("ann").revisions[-1].text == stored
    # what was tried is still there when one comes back from an item
    page.locator(".ranking a").first.click()
    expect(page.get_by_role("heading", level=1)).to_have_text(after[0])
    expect(page.locator(".back")).to_contain_text("place 1 of 23")
    page.go_back()
    assert settled(page) == after
    expect(field).to_have_value("tape hinge copper lamp")
    field.fill(stored)
    expect(page.locator(".trying")).to_be_hidden()
    assert ranking(page) == before


def test_the_prompt_is_what_the_model_reads(page, service) -> None:
    from trsr.serve.schemas import RecommendRequest

    opened_user(page)
    page.get_by_text("The prompt of the first candidate").click()
    expect(page.locator(".turn").first).to_be_visible()
    expected = service.explain(RecommendRequest(user="ann", k=50)).prompt
    assert page.locator(".turn pre").all_text_contents() == [one.content for one in expected]


def test_the_parts_of_a_blends_scores_are_shown(browser, tmp_path) -> None:
    from trsr.serve.schemas import RecommendRequest

    run = small_run(
        tmp_path, "none", ["popular", "bm25", "blend"], ["rank.blend.members=['popular','bm25']"]
    )
    service = opened(run, tmp_path / "state.sqlite")
    service.add_events([event("ann", n, n) for n in range(4)])
    with serving(service) as address:
        page = browser.new_page(base_url=address)
        opened_user(page)
        page.get_by_text("What the scores are made of").click()
        rows = page.locator(".made tbody tr")
        expect(rows.first).to_be_visible()
        heads = page.locator(".made thead th").all_text_contents()
        assert heads == ["candidate", "popular", "bm25", "score", "words"]
        found = service.explain(RecommendRequest(user="ann", k=50)).items
        assert rows.count() == len(found)
        for row, item in zip(rows.all()[:5], found, strict=False):
            _, popular, bm25, score, words = row.locator("th, td").all_text_contents()
            parts = [float(text.replace("−", "-")) for text in (popular, bm25, score)]
            assert parts[0] + parts[1] == pytest.approx(item.score, abs=0.011)
            assert parts[2] == pytest.approx(item.score, abs=0.006)
            assert all(one.word in words for one in item.scores[2].words)
        page.close()
    ended(service)


@pytest.fixture
def plain(tmp_path):
    """A service whose ranker reads no prompts."""
    made = opened(small_run(tmp_path, "none", ["popular"]), tmp_path / "state.sqlite")
    yield made
    ended(made)


def test_a_ranker_without_prompts_has_none_on_its_page(browser, plain) -> None:
    plain.add_events([event("ann", n, n) for n in range(4)])
    with serving(plain) as address:
        page = browser.new_page(base_url=address)
        opened_user(page)
        expect(page.locator("details.prompt")).to_be_hidden()
        shown = re.compile(r"Shown as recent|(summary|prompt)s? [\d.]+ ms")
        expect(page.locator(".panel")).not_to_contain_text(shown, use_inner_text=True)
        page.goto("/#/items/p1")
        expect(page.get_by_text("All are shown as they are kept.")).to_be_visible()
        expect(page.get_by_text("A model reads")).to_have_count(0)
        page.close()


def test_what_prompts_show_of_an_item_stands_apart(browser, tmp_path) -> None:
    run = small_run(tmp_path, settings=["prompts.fields=['title']"])
    service = opened(run, tmp_path / "state.sqlite")
    with serving(service) as address:
        page = browser.new_page(base_url=address)
        page.goto("/#/items/p1")
        read, rest = (
            page.locator("h2:text-is('In prompts') + dl"),
            page.locator("h2:text-is('Not in prompts') + dl"),
        )
        expect(read.locator("dt")).to_have_text(["title"])
        others = [name.replace("_", " ") for name in service.item("p1").fields if name != "title"]
        expect(rest.locator("dt")).to_have_text(others)
        page.close()
    ended(service)


def test_an_items_page_shows_its_texts(page, service) -> None:
    opened_user(page)
    page.locator(".events li").nth(2).get_by_role("link").click()
    item = service.user("ann").events[2].item
    expect(page.get_by_role("heading", level=1)).to_be_focused()
    for name, text in service.item(item).fields.items():
        expect(page.locator(f"dt:has-text('{name}') + dd")).to_have_text(text)
    page.get_by_role("link", name="User ann").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("ann")


def test_hostile_texts_stay_text(page) -> None:
    page.goto("/")
    page.locator(f"tbody a:has-text('{HOSTILE[:20]}')").click()
    expect(page.locator(".ranking li").first).to_be_visible()
    expect(page.get_by_role("heading", level=1)).to_have_text(HOSTILE)
    labels = page.locator(".events label bdi")
    assert labels.nth(0).text_content() == DRAWING
    assert labels.nth(1).text_content() == TURNED
    assert labels.nth(2).text_content() == LONG[:200].rstrip()
    for label in labels.all():
        assert label.evaluate("node => getComputedStyle(node).unicodeBidi") == "isolate"
    for n in range(3):
        page.evaluate("n => { location.hash = '#/items/p10' + n; }", n)
        expect(page.locator(".kind")).to_have_text(f"Item p10{n}")
        expect(page.locator("dd").first).to_have_text((DRAWING, TURNED, LONG)[n])
    assert page.locator("img, main svg[onload]").count() == 0
    assert page.locator("body script").count() == 0
    assert page.evaluate("window.hurt") is None
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_the_policy_of_the_page_allows_nothing_from_elsewhere(page, address) -> None:
    answer = page.goto("/")
    policy = answer.headers["content-security-policy"]
    for rule in ("default-src 'none'", "script-src 'self'", "style-src 'self'", "base-uri 'none'"):
        assert rule in policy
    assert "unsafe" not in policy
    blocked = page.evaluate(
        """async () => {
            const seen = [];
            const note = (event) => seen.push(event.effectiveDirective);
            addEventListener("securitypolicyviolation", note);
            const script = document.createElement("script");
            script.append("window.hurt = 1");
            document.body.append(script);
            await fetch("https://example.org/").catch(() => 0);
            try { document.body.innerHTML = "<b>x</b>"; } catch { seen.push("markup refused"); }
            await new Promise((resolve) => setTimeout(resolve, 100));
            return [seen, window.hurt ?? null];
        }"""
    )
    page.wrong.clear()
    assert blocked[1] is None
    assert {"connect-src", "require-trusted-types-for", "markup refused"} <= set(blocked[0])


def test_everything_is_reached_by_the_keyboard(page) -> None:
    opened_user(page)
    page.keyboard.press("Tab")
    before = ranking(page)
    for _ in range(60):
        if page.evaluate("document.activeElement.matches('.events input')"):
            break
        page.keyboard.press("Tab")
    for key in ("ArrowDown", "ArrowDown", "ArrowUp", "End"):
        page.keyboard.press(key)
    expect(page.locator("#event-9")).to_be_focused()
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline != "none"
    page.keyboard.press("Space")
    assert settled(page) != before
    expect(page.locator("#event-9")).to_be_focused()
    page.keyboard.press("Tab")  # the timeline is one stop
    assert page.evaluate("!!document.activeElement.closest('.what-if')")
    names = []
    while page.evaluate("!!document.activeElement.closest('.what-if')") and len(names) < 60:
        names.append(page.evaluate("document.activeElement.tagName"))
        page.keyboard.press("Tab")
    assert {"SELECT", "TEXTAREA", "BUTTON", "A", "SUMMARY"} <= set(names)
    page.get_by_role("button", name="Put everything back").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#ranking-title")).to_be_focused()
    page.locator("#event-0").focus()
    page.keyboard.press("Enter")
    expect(page.locator(".kind")).to_contain_text("Item p0")


def test_the_load_is_that_of_metrics(page, service) -> None:
    opened_user(page)
    page.get_by_role("link", name="Ready").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Load")
    row = page.get_by_role("row").filter(has_text="POST /v1/recommend")
    expect(row).to_be_visible()
    assert int(row.get_by_role("cell").first.inner_text()) >= 1
    expect(page.locator(".state")).to_have_class("state good")
    expect(
        page.locator("dt", has_text="summary steps")
        .or_(page.locator("dt", has_text="model passes"))
        .first
    ).to_be_visible()


def test_what_only_watches_the_service_is_no_load(page, service) -> None:
    opened_user(page)
    page.goto("/#/load")
    total = page.locator(".card", has_text="Requests").locator(".figure")
    expect(total).to_be_visible()
    page.request.get("/readyz")
    page.request.get("/healthz")
    routes = page.locator("tbody tr")
    asked = [row.get_by_role("cell").first.inner_text() for row in routes.all()]
    assert sum(int(count.replace(",", "")) for count in asked) == int(total.inner_text())
    shown = set(routes.locator("code").all_inner_texts())
    assert {"GET /v1/users/{user_id}", "POST /v1/recommend"} <= shown
    assert not {"GET /readyz", "GET /metrics", "GET /healthz", "GET /", "GET /page/{name}"} & shown


def test_the_page_ranks_as_many_candidates_as_a_request_gets(page, service) -> None:
    opened_user(page)
    usual = service.recommender.config.rank.retrieve_k
    expect(page.get_by_label("Candidates")).to_have_value(str(usual))
    found = service.recommend(RecommendRequest(user="ann", k=5))
    assert ranking(page)[:5] == [one.title for one in found.items]


def test_what_happens_meanwhile_is_shown_when_asked_for(page, service) -> None:
    page.clock.install()
    for n in (4, 5):
        service.add_events([event("bob", n, n)])
    opened_user(page, "bob")
    service.add_events([event("bob", 6, 6), event("bob", 7, 7)])
    summarized(service, "bob", 3)
    page.clock.fast_forward(11_000)
    expect(page.locator(".fresh")).to_contain_text("2 new interactions and a new summary")
    assert page.locator(".events li").count() == 2
    page.get_by_role("button", name="Show it").click()
    expect(page.locator(".events li")).to_have_count(4)
    expect(page.locator(".note h4")).to_contain_text(["Revision 1"])
    page.context.set_offline(True)
    page.clock.fast_forward(6_000)
    expect(page.locator("#state")).to_have_text("Not reachable")
    page.locator("#event-0").uncheck()
    expect(page.get_by_role("alert")).to_contain_text("cannot be reached")
    page.context.set_offline(False)
    page.locator("#event-1").uncheck()
    assert settled(page)
    expect(page.locator(".what-if [role=alert]")).to_be_hidden()
    page.wrong.clear()  # the browser notes what failed


def test_a_busy_service_is_asked_again(page) -> None:
    said = {"error": {"code": "too_many_requests", "message": "64 requests wait", "where": ""}}
    asked = []

    def busy(route):
        asked.append(route)
        if len(asked) == 1:
            route.fulfill(status=429, headers={"Retry-After": "1"}, json=said)
        else:
            route.continue_()

    page.route("**/v1/recommend", busy)
    page.goto("/#/users/ann")
    expect(page.locator(".what-if [role=alert]")).to_contain_text("64 requests wait Trying again")
    expect(page.locator(".ranking li")).to_have_count(23)
    expect(page.locator(".what-if [role=alert]")).to_be_hidden()
    page.wrong.clear()  # the browser notes the 429


def test_axe_finds_nothing(page) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    paper = {"light": "rgb(251, 251, 250)", "dark": "rgb(20, 23, 26)"}

    def check(*more):
        for scheme, width in (("light", 1400), ("dark", 390), *more):
            page.emulate_media(color_scheme=scheme)
            page.set_viewport_size({"width": width, "height": 900})
            found = axe.run(page, options={"resultTypes": ["violations"]}).response
            assert not found["violations"], [
                (scheme, width, one["id"], [node["html"][:200] for node in one["nodes"]])
                for one in found["violations"]
            ]
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            color = page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert color == paper[scheme]

    page.goto("/")
    expect(page.get_by_role("row").first).to_be_visible()
    check()
    page.locator("#search").fill("u")
    expect(page.get_by_role("option").first).to_be_visible()
    check()
    opened_user(page)
    page.locator("#event-9").uncheck()
    settled(page)
    page.get_by_label("The summary that the ranker reads").fill("tape and hinges")
    page.get_by_text("The prompt of the first candidate").click()
    expect(page.locator(".turn").first).to_be_visible()
    check(("dark", 1400))  # two columns: the one place whose parts stand elsewhere where it is wide
    for place in ("#/items/p102", "#/load", "#/users/nobody"):
        page.goto(f"/{place}")
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        check()
    page.wrong.clear()  # the browser notes the 404


def test_a_key_is_asked_for_where_one_is_needed(browser, service, address) -> None:
    from trsr.serve.auth import add_key

    key = add_key(service.store, "reader", ["read"])
    try:
        with serving(service) as locked:
            page = browser.new_page(base_url=locked)
            page.goto("/#/users/ann")
            field = page.get_by_label("Key", exact=True)
            field.fill("trsr_no_such")
            page.keyboard.press("Enter")
            expect(page.get_by_role("alert")).to_contain_text("does not take this key")
            field.fill(key)
            page.keyboard.press("Enter")
            expect(page.locator(".ranking li").first).to_be_visible()
            assert page.evaluate("document.cookie + JSON.stringify(localStorage)") == "{}"
            page.close()
    finally:
        service.store.drop_key("reader")


def test_the_page_reads_few_of_many_users(browser, plain) -> None:
    import sqlalchemy as sa

    from trsr.serve import tables

    rows = [{"user": f"many{n:05}", "n_events": 1, "last_time": 0.0} for n in range(20_000)]
    plain.store._write(lambda connection: connection.execute(sa.insert(tables.users), rows))
    count = plain.store.count_users()
    with serving(plain) as address:
        page, answers = browser.new_page(base_url=address), []
        page.on("response", lambda one: answers.append(one))  # noqa: PLW0108 - as playwright wants it
        page.goto("/")
        page.get_by_role("row").nth(100).wait_for()
        expect(page.get_by_text(f"{count:,} users")).to_be_visible()
        page.locator("#search").fill("many0999")
        expect(page.get_by_role("option").nth(7)).to_be_visible()
        assert page.get_by_role("row").count() < 300
        read = [len(one.body()) for one in answers if "/v1/" in one.url]
        page.close()
    assert read
    assert max(read) < 100_000  # all users are above a megabyte
