"""Data prepared in parts are those prepared whole, and those of the versions before.

The digests are of the files that trsr wrote when it held all rows in memory (2026-11-29).
"""

from __future__ import annotations

import hashlib
import random

import numpy as np
import polars as pl
import pytest

from trsr.data import prepare, records
from trsr.data.settings import Columns, DataSettings
from trsr.errors import DataError
from trsr.progress import Silent
from trsr.storage import files

# fmt: off
BEFORE = {
    0: "e347e1498d33", 1: "4ad16ba1645b", 2: "", 3: "",
    4: "6ba1583bdff5", 5: "2bc743a71378", 6: "7cbb6165a2c5", 7: "7e6bccff46b6",
    8: "7b47b6b60258", 9: "4d47936beb2d", 10: "d7ace527983f", 11: "2e5d577f6962",
    12: "d0f8167757e0", 13: "706aa4332003", 14: "9993198a6bf2", 15: "",
    16: "82cb4a277dea", 17: "ccc6dadcc15b", 18: "0cd924a93997", 19: "a019ef3f7a4f",
    20: "03af43a9b26b", 21: "3579c11da756", 22: "be745b064201", 23: "aaee00b92f2f",
    24: "baa2665e905a", 25: "28fd4b4a122c", 26: "dcd78fd4b2e9", 27: "f9f38bdeaac7",
    28: "a4a289040b89", 29: "4bf56428abab", 30: "df823cdad1ab", 31: "bd7967c3338d",
    32: "4514dd3d1f68", 33: "f124bff9a53c", 34: "7623a1431966", 35: "b21746a55a74",
    36: "29b779d4f1f1", 37: "4a6681396967", 38: "b0b9d12cc2e3", 39: "40919a074baa",
}
# fmt: on
"""By seed; empty where the data is refused."""

LEFT_OUT = (
    *("rows_without_ids", "other_events", "cancelled", "rows_without_time", "unknown_items"),
    *("duplicates", "below_min_rating", "repeats", "long_users_interactions"),
    "k_core_interactions",
)
IDS = (
    lambda kind, n: f"{kind}{n}",
    lambda kind, n: str(n),
    lambda kind, n: f" {kind}{n}" if n % 3 else f"{kind}{n} ",
    lambda kind, n: f"{n}.0",
)


def some_log(rng, path):
    """Writes interactions with every fault that is counted, and their items; yields the format."""
    users, items, span = rng.randint(3, 40), rng.randint(8, 60), rng.choice([5, 50, 10**6])
    name, kind = rng.choice(IDS), rng.choice(["parquet", "csv"])
    rows = []
    for _ in range(rng.randint(20, 600)):
        unknown = items if rng.random() < 0.02 else 0
        user = name("u", rng.randrange(users))
        item = name("i", int(items ** rng.random()) - 1 + unknown)
        time = None if rng.random() < 0.02 else 1_600_000_000 + rng.randrange(span)
        user = rng.choice(["", "null", "nan"]) if rng.random() < 0.02 else user
        split = rng.choice(["train", "train", "train", "valid", "test"])
        event, step = rng.choice(["click", "buy"]), rng.randrange(3)
        rows.append((user, item, time, rng.randint(1, 5), rng.randint(0, 3), split, event, step))
    columns = ["user", "item", "time", "rating", "quantity", "split", "event", "step"]
    log = pl.DataFrame(rows, schema=columns, orient="row")
    time = pl.col("time")
    written = {
        "whole": time,
        "float": time + 0.5,
        "text": time.cast(pl.String),
        "date": pl.from_epoch("time").dt.strftime("%Y-%m-%d %H:%M:%S"),
    }
    log = log.with_columns(written[rng.choice(list(written))].alias("time"))
    texts = {"item": [name("i", n) for n in range(items)]}
    texts |= {"title": [f"thing {n % 7}" for n in range(items)]}
    for frame, file in ((log, path / f"log.{kind}"), (pl.DataFrame(texts), path / f"items.{kind}")):
        frame.write_parquet(file) if kind == "parquet" else frame.write_csv(file)
    return kind


def some_settings(rng, path):
    kind = some_log(rng, path)
    columns = {"user": "user", "item": "item", "item_id": "item"}
    for role, column, share in (
        ("time", "time", 0.85),
        ("order", "step", 0.2),
        ("quantity", "quantity", 0.2),
    ):
        columns |= {role: column} if rng.random() < share else {}
    chosen = {}
    if rng.random() < 0.2:
        chosen, columns = {"events": ["buy"]}, columns | {"event": "event"}
    chosen["split"] = rng.choice(["leave_last_out", "global_time", "rows", "given"])
    columns |= {"split": "split"} if chosen["split"] == "given" else {}
    chosen["ties"] = rng.choice(["file", "drawn", "step"])
    chosen["candidates"] = rng.choice(["uniform", "popular", "full"])
    for key, value in (("k_core", 2), ("min_rating", 2), ("drop_repeats", True)):
        chosen |= {key: value} if rng.random() < 0.3 else {}
    chosen |= {"max_items_per_user": 20} if rng.random() < 0.3 else {}
    if rng.random() < 0.3:
        chosen |= {"train_users": 4, "valid_cases": 5, "test_cases": 5}
        chosen |= {"same_users": rng.random() < 0.5}
    for key, values in (
        ("max_history", [0, 5, 25]),
        ("targets_per_user", [1, 2]),
        ("min_history", [1, 2, 3]),
        ("negatives", [2, 4]),
    ):
        chosen[key] = rng.choice(values)
    return DataSettings(
        interactions=path / f"log.{kind}",
        items=path / f"items.{kind}",
        columns=Columns(**columns),
        max_unknown=0.2,
        **chosen,
    )


def digest(seed, path):
    """Of all rows and counts; empty where the data is refused."""
    out = path / "out"
    out.mkdir()
    try:
        report = prepare(
            some_settings(random.Random(seed), path), out, seed=seed, progress=Silent()
        )
    except DataError:
        return ""
    counts = report.counts
    assert counts["interactions_read"] == counts["interactions"] + sum(
        counts.get(name, 0) for name in LEFT_OUT
    )
    frames = {path.name: pl.read_parquet(path) for path in sorted(out.iterdir())}
    # what is held out and what is fitted on are all that counts; what does not is beside it
    held_out, fitted = frames.pop("held_out.parquet"), frames["interactions.parquet"]
    counted = pl.concat([fitted, held_out.drop_nulls("time")])
    assert len(counted) == counts["interactions"]
    uncounted = held_out.filter(pl.col("time").is_null()).select("user", "item")
    assert uncounted.join(counted, on=["user", "item"], how="semi").is_empty()
    tables = [(name, frame.columns, frame.rows()) for name, frame in frames.items()]
    return hashlib.sha256(repr((tables, dict(counts))).encode()).hexdigest()[:12]


@pytest.mark.parametrize("seed", BEFORE)
def test_files_are_those_of_data_held_whole(seed, tmp_path, monkeypatch):
    monkeypatch.setattr(records, "PART", 30)
    monkeypatch.setattr("trsr.data.cases.CHUNK", 7)
    monkeypatch.setattr("trsr.data.preparation._CHUNK", 40)
    assert digest(seed, tmp_path) == BEFORE[seed]


def test_a_stream_is_one_table_or_raises_what_a_frame_raises(tmp_path):
    frames = [pl.DataFrame({"n": np.arange(n), "t": ["x"] * n}) for n in (3, 0, 5)]
    files.stream_parquet(iter(frames), frames[0].schema, tmp_path / "a.parquet")
    whole = pl.concat(frames)
    assert pl.read_parquet(tmp_path / "a.parquet").equals(whole)
    files.stream_parquet(iter([whole]), whole.schema, tmp_path / "b.parquet")
    files.write_parquet(whole, tmp_path / "c.parquet")
    assert (tmp_path / "b.parquet").read_bytes() == (tmp_path / "c.parquet").read_bytes()

    def failing():
        yield frames[0]
        raise DataError("no more")

    with pytest.raises(DataError, match="no more"):
        files.stream_parquet(failing(), frames[0].schema, tmp_path / "d.parquet")
    assert not (tmp_path / "d.parquet").exists()
    files.stream_parquet(iter([]), whole.schema, tmp_path / "e.parquet")
    assert pl.read_parquet(tmp_path / "e.parquet").equals(whole.clear())
