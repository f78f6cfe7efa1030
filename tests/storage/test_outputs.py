"""The response cache: content keys, first value stays, many writers, errors in words."""

from __future__ import annotations

import json
import multiprocessing
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trsr.errors import StoreError
from trsr.storage.response_cache import Cost, ResponseCache, response_key
from trsr.types import Message, Prompt

PROMPT = Prompt((Message("user", "hello"),))


def test_what_was_put_is_got_back_and_the_rest_left_out(tmp_path: Path) -> None:
    with ResponseCache(tmp_path / "deep" / "responses.sqlite") as store:
        store.put("a", "text 😀 \x00 \udc80")
        store.put("b", [-0.1, -1e-300, float("-inf")])
        assert store.get(["a", "b", "c"]) == {
            "a": "text 😀 \x00 \udc80",
            "b": [-0.1, -1e-300, float("-inf")],
        }
        assert store.get([]) == {}
        assert len(store) == 2


def test_values_outlive_the_store_and_the_first_one_stays(tmp_path: Path) -> None:
    path = tmp_path / "responses.sqlite"
    with ResponseCache(path) as store:
        store.put("a", "first")
        store.put("a", "second")
    with ResponseCache(path) as store:
        assert store.get(["a"]) == {"a": "first"}


@given(
    st.dictionaries(
        st.text("0123456789abcdef", min_size=1), st.floats(allow_nan=False) | st.text(), max_size=30
    ),
)
def test_many_values_at_once_come_back_exactly(values: dict[str, float | str]) -> None:
    with ResponseCache(Path(":memory:")) as store:
        store.put_all(values)
        assert store.get(list(values)) == json.loads(json.dumps(values))


def test_more_keys_than_sqlite_takes_parameters(tmp_path: Path) -> None:
    keys = [f"key{n}" for n in range(50_000)]
    with ResponseCache(tmp_path / "responses.sqlite") as store:
        store.put_all(dict.fromkeys(keys, "x"))
        assert len(store.get(keys)) == len(keys)


def test_a_key_depends_on_all_that_decides_the_answer() -> None:
    kinds: list[dict[str, object]] = [
        {"generate": {"max_tokens": 5}},
        {"generate": {"max_tokens": 6}},
        {"score": ["Yes", "No"]},
        {"score": ["No", "Yes"]},
    ]
    prompts = [
        PROMPT,
        Prompt((Message("system", "hello"),)),
        Prompt((Message("user", "hel"), Message("user", "lo"))),
        Prompt((Message("user", "hello"), Message("assistant", ""))),
    ]
    keys = {response_key(m, p, k) for m in ("one", "two") for p in prompts for k in kinds}
    assert len(keys) == 2 * len(kinds) * len(prompts)


def test_a_key_is_the_same_in_every_process_and_order_of_words() -> None:
    key = response_key("m", PROMPT, {"generate": {"a": 1, "b": 2}})
    assert key == response_key("m", PROMPT, {"generate": {"b": 2, "a": 1}})
    assert key == "61c7404cb7c1235542c65f54f377c6f9152113d4f3a86aef69414cd68df5be60"


def _write(path: Path, name: int) -> None:
    with ResponseCache(path) as store:
        for n in range(50):
            store.put(f"{name}-{n}", "mine")
            store.put(f"shared-{n}", name)


def test_several_processes_open_and_write_one_file(tmp_path: Path) -> None:
    path = tmp_path / "responses.sqlite"
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_write, args=(path, n)) for n in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    with ResponseCache(path) as store:
        assert len(store) == 4 * 50


def test_several_threads_share_one_store(tmp_path: Path) -> None:
    with ResponseCache(tmp_path / "responses.sqlite") as store:
        threads = [
            threading.Thread(target=lambda n=n: [store.put(f"{n}-{i}", i) for i in range(50)])
            for n in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(store) == 200


def test_a_killed_process_loses_nothing_that_was_put(tmp_path: Path) -> None:
    path = tmp_path / "responses.sqlite"
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from trsr.storage.response_cache import ResponseCache\n"
        "store = ResponseCache(Path(sys.argv[1]))\n"
        "for n in range(100): store.put(str(n), n)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(path)], check=False)
    with ResponseCache(path) as store:
        assert store.get([str(n) for n in range(100)]) == {str(n): n for n in range(100)}


@pytest.mark.parametrize("content", [b"not a database at all, " * 100, b"SQLite format 3\0junk"])
def test_a_file_of_something_else_is_refused_in_words(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "responses.sqlite"
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"responses\.sqlite cannot be .*move it away"):
        ResponseCache(path).put("a", "b")


def test_a_file_damaged_in_the_middle_is_reported_in_words(tmp_path: Path) -> None:
    path = tmp_path / "responses.sqlite"
    with ResponseCache(path) as store:
        store.put_all({f"key{n}": "value " * 20 for n in range(500)})
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    path.write_bytes(data)
    with (
        pytest.raises(StoreError, match="move it away and run again"),
        ResponseCache(path) as store,
    ):
        store.get(["key1"])


def test_a_database_of_another_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE theirs (a)")
    connection.close()
    with pytest.raises(StoreError, match="another program: choose another place"):
        ResponseCache(path)


def test_a_store_of_another_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "responses.sqlite"
    ResponseCache(path).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version=99")
    connection.close()
    with pytest.raises(StoreError, match="version 99"):
        ResponseCache(path)


def old_store(path: Path) -> None:
    """As trsr 1 of the format wrote it: answers without what they took."""
    connection = sqlite3.connect(path)
    connection.execute(
        "CREATE TABLE outputs (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID"
    )
    connection.execute("INSERT INTO outputs VALUES ('a', '\"old\"')")
    connection.execute(f"PRAGMA application_id={0x74727372}")
    connection.execute("PRAGMA user_version=1")
    connection.commit()
    connection.close()


def test_what_answers_took_is_kept_where_it_is_known(tmp_path: Path) -> None:
    path = tmp_path / "responses.sqlite"
    with ResponseCache(path) as store:
        store.put("a", "text", Cost(0.25, 12))
        store.put("b", "text")
        store.put_all({"c": [1.0], "d": [2.0]}, {"d": Cost(1.5, 3)})
        store.put("a", "again", Cost(9.0, 9))  # the first one stays, with its cost
    for write in (True, False):
        with ResponseCache(path, write=write) as store:
            known = {"a": Cost(0.25, 12), "d": Cost(1.5, 3)}
            assert store.costs(["a", "b", "c", "d", "nothing"]) == known


def test_a_store_of_the_version_before_is_read_and_brought_to_this_one(tmp_path: Path) -> None:
    path = tmp_path / "responses.sqlite"
    old_store(path)
    before = path.read_bytes()
    with ResponseCache(path, write=False) as store:
        assert store.get(["a"]) == {"a": "old"}
        assert store.costs(["a"]) == {}
    assert path.read_bytes() == before
    for _ in range(2):
        with ResponseCache(path) as store:
            store.put("b", "new", Cost(1.0, 2))
            assert store.get(["a", "b"]) == {"a": "old", "b": "new"}
            assert store.costs(["a", "b"]) == {"b": Cost(1.0, 2)}


def test_several_that_open_an_old_store_at_once_bring_it_to_this_version_once(
    tmp_path: Path,
) -> None:
    path = tmp_path / "responses.sqlite"
    old_store(path)
    failures: list[Exception] = []

    def use(name: str) -> None:
        try:
            with ResponseCache(path) as store:
                store.put(name, name, Cost(1.0, 1))
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=use, args=(f"t{n}",)) for n in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert not failures
    with ResponseCache(path) as store:
        assert len(store.costs([f"t{n}" for n in range(8)])) == 8
        assert store.get(["a"]) == {"a": "old"}


def test_a_full_disk_is_reported_in_words_and_keeps_what_was_put(tmp_path: Path) -> None:
    path = tmp_path / "responses.sqlite"
    store = ResponseCache(path)
    store.put("kept", "yes")
    # SQLite's own bound on the file gives the same error as a disk without space.
    store._connection.execute("PRAGMA max_page_count=4")
    with pytest.raises(StoreError, match=r"full.*free some space and run the same command again"):
        store.put("big", "x" * 100_000)
    assert store.get(["kept", "big"]) == {"kept": "yes"}
    store.put("small", "fits")
    store.close()


def test_a_folder_that_cannot_be_made_is_reported_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be opened"):
        ResponseCache(tmp_path / "file" / "responses.sqlite")


def test_a_store_that_is_only_read_makes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "out # 1?.sqlite"
    with pytest.raises(StoreError, match="there is no response cache"):
        ResponseCache(path, write=False)
    assert not path.parent.exists()
    with ResponseCache(path) as store:
        store.put("a", "text")
    with ResponseCache(path, write=False) as store:
        assert store.get(["a", "b"]) == {"a": "text"}
        with pytest.raises(StoreError, match="cannot be written"):
            store.put("b", "more")
    assert [one.name for one in path.parent.iterdir()] == [path.name]
    other = tmp_path / "other.sqlite"
    other.write_bytes(b"")
    with pytest.raises(StoreError, match="another program"):
        ResponseCache(other, write=False)
    assert not other.read_bytes()
