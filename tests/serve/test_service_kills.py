"""A service that is killed under load loses no acknowledged event and counts none twice.

`TRSR_KILLS=20 pytest tests/serve/test_service_kills.py` is the long form.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time

from trsr.serve.store import Store

KILLS = int(os.environ.get("TRSR_KILLS", "2"))
CLIENTS = 6


class Service:
    """A service in a process of its own, at one port."""

    def __init__(self, run, database):
        self._command = [sys.executable, "-m", "trsr", "serve", str(run), "--port", "0"]
        self._command += ["--database", database, "--ranker", "popular"]

    def start(self):
        self._process = subprocess.Popen(self._command, stderr=subprocess.PIPE, text=True)
        line = self._process.stderr.readline()
        assert line.startswith("serving "), line + self._process.stderr.read()
        self.port = int(line.rpartition(":")[2])

    def kill(self):
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._process.stderr.close()


class Client(threading.Thread):
    """Sends events until it is stopped; what was not acknowledged is sent again as it was."""

    def __init__(self, name, service):
        super().__init__(daemon=True)
        self.label, self.service, self.stopped = name, service, threading.Event()
        self.sent, self.acknowledged, self.again = set(), set(), 0

    def run(self):
        rng = random.Random(self.label)
        waiting = []
        while not (self.stopped.is_set() and not waiting):
            waiting = waiting or self._batch(rng)
            try:
                status, answer = self._post(waiting)
            except (OSError, http.client.HTTPException):
                self.again += 1
                time.sleep(0.05)
                continue
            assert status == 200, answer
            assert answer["new"] + answer["known"] == len(waiting)
            self.acknowledged |= {event["id"] for event in waiting}
            waiting = []

    def _batch(self, rng):
        batch = [
            {
                "id": f"{self.label}-{len(self.sent) + n}",
                "user": f"x{rng.randrange(20)}",
                "item": "p1",
                "time": float(rng.randrange(100)),
            }
            for n in range(rng.choice([1, 1, 7]))
        ]
        self.sent |= {event["id"] for event in batch}
        return batch

    def _post(self, events):
        connection = http.client.HTTPConnection("127.0.0.1", self.service.port, timeout=30)
        try:
            headers = {"content-type": "application/json"}
            connection.request("POST", "/v1/events", json.dumps({"events": events}), headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()


def counted(clients):
    """How many events were acknowledged till now."""
    return sum(len(client.acknowledged) for client in clients)


def test_no_acknowledged_event_is_lost_and_none_counts_twice(served_run, tmp_path):
    database = f"sqlite:///{tmp_path / 'killed.sqlite'}"
    service = Service(served_run, database)
    service.start()
    clients = [Client(f"c{n}", service) for n in range(CLIENTS)]
    for client in clients:
        client.start()
    rng = random.Random(5)
    try:
        for _ in range(KILLS):
            before, ends = counted(clients), time.monotonic() + 60
            while counted(clients) <= before + 10:  # however slow the machine is
                assert time.monotonic() < ends
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 0.5))
            service.kill()
            service.start()
        for client in clients:
            client.stopped.set()
        for client in clients:
            client.join(60)
    finally:
        service.kill()
    assert not any(client.is_alive() for client in clients)
    assert sum(client.again for client in clients) >= KILLS  # the kills did hit requests
    store = Store(database)
    try:
        rows = [row for row in store.users(limit=1000) if row.user.startswith("x")]
        kept = [event.id for row in rows for event in store.history(row.user)]
    finally:
        store.close()
    sent = set().union(*(client.sent for client in clients))
    acknowledged = set().union(*(client.acknowledged for client in clients))
    assert len(acknowledged) > 10 * KILLS
    assert acknowledged == sent  # each was sent until it was
    assert sorted(kept) == sorted(sent)  # each once
    assert sum(row.n_events for row in rows) == len(kept)
