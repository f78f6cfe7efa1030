"""The OpenAPI description is complete and true: schemathesis asks as it says, and worse.

`TRSR_FUZZ=1150 pytest tests/serve/test_openapi.py` is the long form: above 10,000 requests.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

from trsr.serve.auth import add_key
from trsr.serve.loadtest import serving
from trsr.serve.store import Store

EXAMPLES = os.environ.get("TRSR_FUZZ", "3")
SEED = os.environ.get("TRSR_FUZZ_SEED", "1")


def test_what_the_description_says_holds_for_any_request(served_run, tmp_path):
    database = f"sqlite:///{tmp_path / 'fuzzed.sqlite'}"
    store = Store(database)
    key = add_key(store, "fuzz", ["admin"])
    store.close()
    here = Path(__file__).parent
    with serving(served_run, database, "item_knn") as port:
        address = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "schemathesis.cli"]
        command += ["--config-file", str(here / "schemathesis.toml"), "--no-color"]
        command += ["run", f"{address}/openapi.json", "--max-examples", EXAMPLES, "--seed", SEED]
        command += ["--continue-on-failure", "-H", f"Authorization: Bearer {key}"]
        environment = {**os.environ, "SCHEMATHESIS_HOOKS": "fuzz_checks", "PYTHONPATH": str(here)}
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment, cwd=tmp_path
        )
        asked = urllib.request.Request(f"{address}/metrics")  # noqa: S310 - our own
        asked.add_header("authorization", f"Bearer {key}")
        numbers = urllib.request.urlopen(asked).read().decode()  # noqa: S310
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr
    statuses = re.findall(r'trsr_requests_total\{.*status="(\d+)"\} ([\d.e+]+)', numbers)
    counted = {status: 0.0 for status, _ in statuses}
    for status, count in statuses:
        counted[status] += float(count)
    sys.stdout.write(f"{counted}\n")
    assert sum(counted.values()) > 100
    assert {"200", "401", "404", "405", "422"} <= set(counted)
    assert not [status for status in counted if status.startswith("5")]
