"""The service over HTTP: routes, keys, limits, headers, and what an error says."""

from __future__ import annotations

import json
import logging

import pytest

from trsr.serve.auth import Keys, add_key
from trsr.serve.gate import HEADERS, RateLimit


def event(name, user="new", item="p1", time=1.0):
    return {"id": name, "user": user, "item": item, "time": time}


def send(client, *events, **options):
    return client.post("/v1/events", json={"events": list(events)}, **options)


def code(answer):
    assert set(answer.json()["error"]) == {"code", "message", "where"}
    return answer.status_code, answer.json()["error"]["code"]


def logged(caplog):
    """What the service logs; the client of the tests logs too."""
    own = [one.getMessage() for one in caplog.records if not one.name.startswith("httpx")]
    return "\n".join(own)


def test_from_an_event_to_a_recommendation(make_client):
    client = make_client()
    assert send(client, event("a"), event("b", item="p2")).json() == {"new": 2, "known": 0}
    assert send(client, event("a")).json() == {"new": 0, "known": 1}
    shown = client.get("/v1/users/new").json()
    assert [(e["id"], e["item"]) for e in shown["events"]] == [("a", "p1"), ("b", "p2")]
    found = client.post("/v1/recommend", json={"user": "new", "k": 5}).json()
    assert [item["rank"] for item in found["items"]] == [1, 2, 3, 4, 5]
    scores = [item["score"] for item in found["items"]]
    assert scores == sorted(scores, reverse=True)
    assert not {"p1", "p2"} & {item["item"] for item in found["items"]}
    chosen = ["p3", "p9"]
    given = client.post("/v1/recommend", json={"user": "new", "candidates": chosen}).json()
    assert sorted(item["item"] for item in given["items"]) == chosen
    assert {user["user"] for user in client.get("/v1/users?prefix=ne").json()["users"]} == {"new"}


def test_a_new_item_counts_at_once(make_client):
    client = make_client()
    assert code(send(client, event("a", item="brand/new ü"))) == (404, "not_found")
    put = client.put("/v1/items/brand%2Fnew%20%C3%BC", json={"fields": {"title": "A new drill"}})
    assert put.status_code == 201
    text = {"title": "A new drill"}
    answer = {"id": "brand/new ü", "result": "new", "read": [], "warnings": [], "fields": text}
    assert put.json() == answer
    assert client.put("/v1/items/brand/new ü", json={"fields": {"title": "T"}}).status_code == 200
    assert client.get("/v1/items/brand%2Fnew%20%C3%BC").json()["fields"] == {"title": "T"}
    assert send(client, event("a", item="brand/new ü")).status_code == 200
    body = {"history": ["p1"], "candidates": ["p2", {"id": "only here", "fields": {"title": "x"}}]}
    found = client.post("/v1/recommend", json=body)
    assert {item["item"] for item in found.json()["items"]} == {"p2", "only here"}


def test_items_come_in_batches(make_client):
    client = make_client()
    put = [{"id": f"new/{n}", "fields": {"brand": "Ajax", "title": f"Drill {n}"}} for n in range(3)]
    same = {"id": "p1", "fields": client.get("/v1/items/p1").json()["fields"]}

    def sent(*items):
        answer = client.post("/v1/items", json={"items": items})
        return answer if answer.is_error else [one["result"] for one in answer.json()["items"]]

    assert sent(*put, same) == ["new", "new", "new", "unchanged"]
    put[1]["fields"]["title"] = "Hammer"
    assert sent(*put) == ["unchanged", "changed", "unchanged"]
    assert client.get("/v1/items/new/1").json()["fields"]["title"] == "Hammer"
    # the title stands first in the run's items, and so in new ones
    found = client.post("/v1/recommend", json={"history": ["p1"], "candidates": ["new/2"]}).json()
    assert found["items"][0]["title"] == "Drill 2"
    assert sent(put[0], put[0]) == ["unchanged", "unchanged"]
    twice = sent({"id": "other", "fields": {}}, put[0], put[1] | {"id": "new/0"})
    assert code(twice) == (422, "cannot_be_answered")
    assert "'new/0' comes with two texts" in twice.json()["error"]["message"]
    assert client.get("/v1/items/other").status_code == 404
    assert code(sent()) == (422, "invalid")
    assert code(sent(*({"id": f"{n}", "fields": {}} for n in range(1001)))) == (422, "invalid")


def test_a_field_that_nothing_reads_is_named(make_client):
    client = make_client()

    def warnings(fields):
        return client.put("/v1/items/odd", json={"fields": fields}).json()["warnings"]

    assert warnings({"title": "A drill"}) == []
    (near,) = warnings({"titel": "A drill"})
    assert near == "the run's items have no field 'titel': did you mean title?"
    (empty,) = warnings({})
    assert empty.startswith("it has no text to rank it by; the run's items have title, ")


def test_services_on_one_database_see_each_others_users_and_items(url, make_client, monkeypatch):
    from trsr.serve import items

    one, other = make_client(url), make_client(url)
    one.put("/v1/items/fresh", json={"fields": {"title": "old"}})
    assert send(other, event("a", item="fresh")).status_code == 200
    assert one.get("/v1/users/new").json()["events"][0]["title"] == "old"
    other.put("/v1/items/fresh", json={"fields": {"title": "new"}})
    monkeypatch.setattr(items, "FRESH_SECONDS", 0.0)
    assert one.get("/v1/users/new").json()["events"][0]["title"] == "new"
    assert send(one, event("a", item="fresh")).json() == {"new": 0, "known": 1}


def test_any_id_can_be_asked_for(make_client):
    from urllib.parse import quote

    client = make_client()
    for name in ("a/b//c", "ü 漢字", "100%", "?x=1&y", "#", "'\"<b>", ".hidden"):
        assert send(client, event(f"e {name}", user=name)).status_code == 200
        path = f"/v1/users/{quote(name, safe='')}"
        assert client.get(path).json()["user"] == name
        assert client.delete(path).json() == {"events": 1, "revisions": 0, "outputs": 0}
        assert code(client.get(path)) == (404, "not_found")
        assert code(client.delete(path)) == (404, "not_found")


def test_an_id_with_another_content_is_a_conflict(make_client):
    client = make_client()
    send(client, event("a"))
    assert code(send(client, event("a", time=2.0))) == (409, "conflict")


BAD = [
    b"",
    b"{",
    b"[]",
    b"null",
    b'{"events": []}',
    b'{"events": [{"id": "a"}]}',
    b'{"events": [{"id": "a", "user": "u", "item": "p1", "time": "1"}]}',
    b'{"events": [{"id": "a", "user": "u", "item": "p1", "time": NaN}]}',
    b'{"events": [{"id": "a", "user": "u", "item": "p1", "time": 1e999}]}',
    b'{"events": [{"id": "a", "user": "u", "item": "p1", "time": ' + b"9" * 5000 + b"}]}",
    b'{"events": [{"id": "", "user": "u", "item": "p1", "time": 1}]}',
    b'{"events": [{"id": "a\\u0000", "user": "u", "item": "p1", "time": 1}]}',
    b'{"events": [{"id": "a\\ud800", "user": "u", "item": "p1", "time": 1}]}',
    b'{"events": [{"id": "a", "user": "u", "item": "p1", "time": 1, "more": 2}]}',
    b'{"events": [{"id": "a", "user": "u", "item": "p1", "time": true}]}',
    b'{"events": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    b"\xff\xfe",
]


def test_a_wrong_body_is_the_callers_mistake(make_client):
    client = make_client()
    headers = {"content-type": "application/json"}
    for body in BAD:
        answer = client.post("/v1/events", content=body, headers=headers)
        assert answer.status_code in (400, 422), body[:99]
        assert "Traceback" not in answer.text
        assert "site-packages" not in answer.text
        code(answer)


def test_a_mistake_is_named_with_its_place_and_without_what_was_sent(make_client):
    marked = "marmalade-7f3a"
    wrong = {**event("a"), "user": [marked]}
    answer = send(make_client(), event("b"), wrong)
    assert answer.json()["error"]["where"] == "body.events.1.user"
    assert marked not in answer.text
    said = send(make_client(), {**event("c"), "time": "2026-01-02"}).json()["error"]["message"]
    assert "seconds since 1970" in said


def test_a_key_that_stands_twice_is_refused(make_client):
    client = make_client()
    twice = b'{"events": [{"id": "a", "user": "u", "user": "v", "item": "p1", "time": 1}]}'
    for way, body in (
        ("/v1/events", twice),
        ("/v1/recommend", b'{"user": "u1", "k": 2, "k": 3}'),
        ("/v1/recommend", b'{"history": [{"id": "x", "fields": {"title": "a", "title": "b"}}]}'),
    ):
        answer = client.post(way, content=body, headers={"content-type": "application/json"})
        assert code(answer) == (422, "invalid")
        assert "a key twice" in answer.text


def test_a_body_has_a_kind_and_a_size(make_client):
    client = make_client(max_body=2000)
    plain = client.post("/v1/events", content="{}", headers={"content-type": "text/plain"})
    assert code(plain)[0] in (415, 422)
    assert "Content-Type: application/json" in plain.text
    many = [event(f"e{n}") for n in range(100)]
    assert code(send(client, *many)) == (413, "too_large")

    def parts():
        yield from [b" " * 500] * 10

    headers = {"content-type": "application/json"}
    streamed = client.post("/v1/events", content=parts(), headers=headers)
    assert code(streamed) == (413, "too_large")
    assert client.get("/v1/users?prefix=new").json()["users"] == []


def test_what_is_not_there_is_said_in_the_same_form(make_client):
    client = make_client()
    nobody = client.post("/v1/recommend", json={"user": "bob"}).json()["error"]["message"]
    assert nobody.startswith(
        "there is no user 'bob': send what the user does (POST /v1/events), or"
    )
    assert code(client.get("/v2")) == (404, "not_found")
    assert code(client.get("/page/../app.py")) == (404, "not_found")
    assert code(client.get("/page/..%2fapp.py")) == (404, "not_found")
    answer = client.post("/v1/users")
    assert code(answer) == (405, "method_not_allowed")
    assert answer.headers["allow"] == "GET"
    assert code(client.get("/v1/users/")) == (422, "invalid")


def test_each_answer_has_the_headers_that_keep_a_browser_safe(make_client):
    client = make_client()
    answers = [client.get(path) for path in ("/healthz", "/v1/users", "/nothing")]
    answers.append(client.get("/v1/users", headers={"origin": "http://elsewhere"}))
    for answer in answers:
        assert {name: answer.headers[name] for name in HEADERS} == HEADERS
    assert "unsafe" not in HEADERS["content-security-policy"]


def test_pages_of_other_sites_cannot_reach_it_through_a_browser(make_client):
    client = make_client()
    other = {"origin": "http://evil.example"}
    assert code(send(client, event("a"), headers=other)) == (403, "wrong_origin")
    assert code(client.get("/v1/users", headers={"origin": "null"})) == (403, "wrong_origin")
    own = {"origin": "http://localhost"}
    assert client.get("/v1/users", headers=own).status_code == 200
    rebound = {"host": "evil.example:8000"}  # a name that was led to this machine
    assert code(client.get("/v1/users", headers=rebound)) == (421, "wrong_host")


def test_off_loopback_each_route_asks_for_the_scope_that_it_needs(make_client):
    client = make_client(host="::", base="http://shop.example")
    store = client.app.state.service.store
    keys = {scope: add_key(store, scope, [scope]) for scope in ("read", "write", "admin")}
    asked = {
        "read": [
            ("GET", "/v1/users", None),
            ("GET", "/v1/users/u1", None),
            ("GET", "/v1/items/p1", None),
            ("POST", "/v1/recommend", {"user": "u1"}),
            ("POST", "/v1/explain", {"user": "u1"}),
            ("POST", "/v1/score", {"text_1": "a", "text_2": "b"}),
            ("GET", "/metrics", None),
        ],
        "write": [
            ("POST", "/v1/events", {"events": [event("a")]}),
            ("PUT", "/v1/items/q", {"fields": {}}),
            ("POST", "/v1/items", {"items": [{"id": "q", "fields": {}}]}),
        ],
        "admin": [("DELETE", "/v1/users/u2", None)],
    }
    for scope, requests in asked.items():
        for method, path, body in requests:
            without = client.request(method, path, json=body)
            assert code(without) == (401, "unauthorized")
            assert without.headers["www-authenticate"] == "Bearer"
            for held, key in keys.items():
                headers = {"authorization": f"Bearer {key}"}
                answer = client.request(method, path, json=body, headers=headers)
                allowed = held in (scope, "admin")
                assert (answer.status_code != 403) == allowed, (method, path, held)
                assert answer.status_code != 401
    assert client.get("/healthz").text == "ok"
    known = {route.path for route in client.app.routes if route.path.startswith("/v1")}
    assert len(known) == 8  # a new route belongs into the table above


def test_a_wrong_key_is_none(make_client):
    client = make_client(host="::", base="http://shop.example")
    store = client.app.state.service.store
    key = add_key(store, "one", ["read"])
    wrong = [key[:-1], f"{key}x", key.replace("trsr_", "trsx_"), "", "x", key.upper()]
    wrong += [f"trsr_{'0' * 16}_{key.split('_', 2)[2]}", "trsr__", "ü"]
    for text in wrong:
        headers = {"authorization": f"Bearer {text}".encode()}
        assert client.get("/v1/users", headers=headers).status_code == 401
    for header in (key, f"Basic {key}"):
        assert client.get("/v1/users", headers={"authorization": header}).status_code == 401
    good = {"authorization": f"bearer {key}"}
    assert client.get("/v1/users", headers=good).status_code == 200


def test_a_key_is_kept_as_a_digest_and_can_be_removed(make_client, monkeypatch):
    from trsr.errors import ConfigError

    client = make_client()
    store = client.app.state.service.store
    key = add_key(store, "one", ["read", "write"])
    (row,) = store.api_keys()
    assert row["scopes"] == "read,write"
    assert key.split("_", 2)[2] not in json.dumps(row)
    keys = Keys(store)
    keys.refresh()
    assert keys.client(f"Bearer {key}").scopes == {"read", "write"}
    replaced = add_key(store, "one", ["admin"])
    assert len(store.api_keys()) == 1
    assert store.drop_key("one")
    assert not store.drop_key("one")
    keys.refresh()
    assert keys.client(f"Bearer {key}") is None
    assert keys.client(f"Bearer {replaced}") is None
    for scopes in ([], ["all"]):
        with pytest.raises(ConfigError, match="read, write, admin"):
            add_key(store, "two", scopes)


def test_with_a_key_in_the_store_loopback_needs_one_too(make_client):
    client = make_client()
    add_key(client.app.state.service.store, "one", ["read"])
    assert code(client.get("/v1/users")) == (401, "unauthorized")


def test_a_client_that_asks_too_often_waits(make_client):
    client = make_client(rate=0.001)  # one, however slow the machine is
    assert client.get("/v1/users").status_code == 200
    second = client.get("/v1/users")
    assert code(second) == (429, "too_many_requests")
    assert int(second.headers["retry-after"]) > 100
    assert client.get("/healthz").status_code == 200


def test_the_rate_is_each_clients_own_and_the_memory_of_it_is_bounded(monkeypatch):
    from trsr.serve import gate

    monkeypatch.setattr(gate, "_CLIENTS", 100)
    limit = RateLimit(1.0)
    assert [limit.wait("a", now=0.0) for _ in range(3)] == [0, 0, 1]
    assert limit.wait("b", now=0.0) == 0
    assert limit.wait("a", now=1.0) == 0
    assert limit.wait("a", now=1.0) == 1
    for n in range(1000):
        limit.wait(str(n), now=2.0)
    assert len(limit._left) <= 100
    assert RateLimit(0).wait("a") == 0


def test_a_mistake_of_the_service_tells_nothing_and_logs_no_text(make_client, monkeypatch, caplog):
    client = make_client()
    marked = "marmalade-7f3a"

    def broken(*_):
        raise RuntimeError(marked)

    monkeypatch.setattr(client.app.state.service, "user", broken)
    with caplog.at_level(logging.DEBUG):
        answer = client.get(f"/v1/users/{marked}")
    assert code(answer) == (500, "internal")
    assert marked not in answer.text
    ours = logged(caplog)
    assert "RuntimeError" in ours
    assert "test_http.py" in ours  # where it was
    assert marked not in ours


def test_no_log_line_and_no_metric_names_a_user_or_an_item(make_client, caplog):
    client = make_client()
    marked = "marmalade-7f3a"
    with caplog.at_level(logging.DEBUG):
        client.put(f"/v1/items/{marked}", json={"fields": {"title": marked}})
        send(client, event(marked, user=marked, item=marked))
        client.get(f"/v1/users/{marked}")
        client.post("/v1/recommend", json={"user": marked})
        client.get(f"/{marked}")
    ours = logged(caplog)
    assert "GET /v1/users/{user_id} 200" in ours
    assert marked not in ours
    numbers = client.get("/metrics").text
    assert marked not in numbers
    route = 'trsr_requests_total{method="GET",route="/v1/users/{user_id}",status="200"} 1.0'
    assert route in numbers
    assert 'route="other",status="404"' in numbers
    assert "trsr_events_total 1.0" in numbers


def test_the_service_is_not_ready_before_its_first_ranking_is_done(make_client, monkeypatch):
    client = make_client()
    service, seen = client.app.state.service, []
    rank = service.recommend

    def ranking(request):
        seen.append(client.get("/readyz"))  # of somebody else, meanwhile
        return rank(request)

    monkeypatch.setattr(service, "recommend", ranking)
    assert client.get("/readyz").json()["model"] is True
    assert [(one.status_code, one.json()["model"]) for one in seen] == [(503, False)]
    assert client.get("/readyz").status_code == 200
    assert len(seen) == 1


def test_the_database_is_gone_and_back(postgres, make_client):
    client = make_client(postgres.fresh())
    assert send(client, event("a")).status_code == 200
    assert client.get("/readyz").json() == {"ready": True, "database": True, "model": True}
    postgres.stop()
    try:
        answers = [
            send(client, event("b")),
            client.get("/v1/users/u1"),
            client.get("/v1/users"),
            client.put("/v1/items/q", json={"fields": {}}),
            client.post("/v1/recommend", json={"user": "u1"}),
            client.delete("/v1/users/u1"),
        ]
        assert {code(answer) for answer in answers} == {(503, "unavailable")}
        assert all("retry-after" in answer.headers for answer in answers)
        assert not any("postgres" in answer.text or "psycopg" in answer.text for answer in answers)
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()["database"]) == (503, False)
        assert client.get("/healthz").status_code == 200
    finally:
        postgres.start()
    assert client.get("/readyz").status_code == 200
    assert send(client, event("a"), event("b")).json() == {"new": 1, "known": 1}
    assert client.post("/v1/recommend", json={"user": "u1"}).status_code == 200


def test_a_full_queue_sends_away_and_says_when_to_come_again(make_client, monkeypatch):
    import threading

    client = make_client(queue=1)
    service = client.app.state.service
    entered, leave = threading.Event(), threading.Event()
    recommend = service.recommend

    def slow(*arguments):
        entered.set()
        assert leave.wait(60)
        return recommend(*arguments)

    monkeypatch.setattr(service, "recommend", slow)
    answers = []
    with client:  # one event loop for both
        first = threading.Thread(
            target=lambda: answers.append(client.post("/v1/recommend", json={"user": "u1"}))
        )
        first.start()
        assert entered.wait(60)
        second = client.post("/v1/recommend", json={"user": "u2"})
        leave.set()
        first.join(60)
    assert code(second) == (429, "too_many_requests")
    assert int(second.headers["retry-after"]) >= 1
    assert answers[0].status_code == 200


def test_off_loopback_the_command_wants_a_key_first(served_run, tmp_path):
    from trsr.cli.serve import add_key as make
    from trsr.cli.serve import drop_key, serve
    from trsr.errors import ConfigError, StoreError

    database = f"sqlite:///{tmp_path / 's.sqlite'}"
    options = {"host": "::", "database": database}
    with pytest.raises(ConfigError, match="--add-key"):
        serve(served_run, options, print)
    with pytest.raises(ConfigError, match="no API key 'x'"):
        drop_key(served_run, database, "x")
    assert make(served_run, database, "x", ["read"]).startswith("trsr_")
    drop_key(served_run, database, "x")
    with pytest.raises(StoreError, match="not a run directory"):
        serve(tmp_path, {}, print)
