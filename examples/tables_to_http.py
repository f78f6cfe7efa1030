"""From two tables to recommendations over HTTP, on MovieLens-100K; no language model takes part.

    trsr get ml-100k
    python examples/tables_to_http.py ~/.cache/trsr/ml-100k

Leave the settings of `fit` out, and a language model is trained and blended in: minutes, not
seconds.
"""

import json
import subprocess
import sys
import urllib.request
from pathlib import Path

import polars as pl

import trsr


def ask(port: int, path: str, body: object) -> dict:
    """The answer to a question in JSON."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}",
        json.dumps(body).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def main(folder: Path) -> None:
    """Fits, recommends, serves, asks."""
    ratings = pl.read_csv(folder / "ml-100k.inter", separator="\t")
    ratings = ratings.rename(lambda name: name.partition(":")[0])
    plain = {"separator": "\t", "quote_char": None, "infer_schema": False}
    films = pl.read_csv(folder / "ml-100k.item", **plain)
    films = films.rename(lambda name: name.partition(":")[0])

    recommender = trsr.fit(
        ratings,
        films,
        summarize={"strategy": "none"},
        rank={"rankers": ["popular", "item_knn"]},
    )
    print(recommender.report)
    print(recommender.recommend([1, 2], k=3))

    run = recommender.dataset.folder
    command = [sys.executable, "-m", "trsr", "serve", str(run), "--port", "0"]
    service = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        line = next(line for line in service.stderr or () if line.startswith("serving "))
        port = int(line.rpartition(":")[2])
        # a user whom the run has never seen likes Toy Story and Star Wars
        liked = [("likes-1", "1", 1.0), ("likes-2", "50", 2.0)]
        events = [{"id": id, "user": "ann", "item": item, "time": at} for id, item, at in liked]
        print(ask(port, "/v1/events", {"events": events}))
        for place in ask(port, "/v1/recommend", {"user": "ann", "k": 5})["items"]:
            print(place["rank"], place["title"], round(place["score"], 3))
    finally:
        service.terminate()
        service.wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]).expanduser())
