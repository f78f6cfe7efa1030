#!/bin/sh
# obstore 0.12.1, 2026-11-29: a conditional write. What `put` returns is no version that `put` takes.
#
# Expected: `put` returns e_tag and version, of which a store may lack one; the types of both are
# `str | None`, and the documentation recommends to preserve both for a conditional update. So the
# result of one `put` is the `mode` of the next.
# Found: on stores without version numbers (S3 without versioning, memory) it is {"version": None},
# and the next `put` raises TypeError: 'None' is not an instance of 'str'. Without the key it works.
#
# Output seen:
#   put gave {'e_tag': '"0"', 'version': None}
#   as mode: TypeError 'None' is not an instance of 'str'
#   without the None: {'e_tag': '"1"', 'version': None}
set -eu
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet obstore==0.12.1
"$tmp/venv/bin/python" - <<'PY'
import obstore
from obstore.store import MemoryStore

store = MemoryStore()
first = obstore.put(store, "manifest", b"1")
print("put gave", first)
assert first["version"] is None
try:
    obstore.put(store, "manifest", b"2", mode=first)
except TypeError as error:
    print("as mode: TypeError", error)
else:
    raise SystemExit("it is taken now")
known = {key: value for key, value in first.items() if value is not None}
print("without the None:", obstore.put(store, "manifest", b"2", mode=known))
PY
