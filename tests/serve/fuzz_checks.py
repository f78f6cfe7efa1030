"""What schemathesis checks beside its own: no answer shows the service's inside."""

from __future__ import annotations

import schemathesis

INSIDE = ("Traceback", "site-packages", "/src/trsr", "sqlalchemy", "sqlite3", "psycopg", 'File "')


@schemathesis.check
def tells_nothing_of_the_inside(_context, response, _case) -> None:
    text = response.text
    assert not [word for word in INSIDE if word in text]


@schemathesis.check
def errors_have_one_form(_context, response, _case) -> None:
    if response.status_code >= 400 and response.headers["content-type"][0] == "application/json":
        body = response.json()
        assert set(body) == {"error"} or "ready" in body
