#!/bin/sh
# gensim 4.4.0, 2026-11-28: item2vec on integer item ids. An item that was never seen answers with
# another item's vector.
#
# Expected: with the tokens 10, 20 and 30 trained, item 0 is unknown: `0 in wv` is False and wv[0]
# raises KeyError, as an unknown word does.
# Found: an integer key that is no token counts as a position, if it is below the vocabulary's size.
# `0 in wv` is True, wv[0] is item 30's vector, and neighbours of the "item" 2 are those of item 10.
# So cold items pass for warm ones in a catalogue of small integers; string ids are safe.
#
# Output seen:
#   vocabulary [30, 20, 10]
#   0 in wv: True   wv[0] is wv[30]: True   wv[2] is wv[10]: True
#   item 3: KeyError
set -eu
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet gensim==4.4.0
"$tmp/venv/bin/python" - <<'PY'
from gensim.models import Word2Vec

wv = Word2Vec([[10, 20, 30]] * 50, vector_size=8, min_count=1, workers=1, seed=1).wv
print("vocabulary", wv.index_to_key)
first, last = wv.index_to_key[0], wv.index_to_key[2]
as_first = bool((wv[0] == wv[first]).all())
as_last = bool((wv[2] == wv[last]).all())
print("0 in wv:", 0 in wv, f"  wv[0] is wv[{first}]:", as_first, f"  wv[2] is wv[{last}]:", as_last)
assert set(wv.index_to_key) == {10, 20, 30}
assert 0 in wv and as_first and as_last
assert wv.most_similar(2) == wv.most_similar(last)
try:
    wv[3]
except KeyError:
    print("item 3: KeyError")
else:
    raise SystemExit("item 3 has a vector now")
PY
