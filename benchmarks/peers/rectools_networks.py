"""RecTools' SASRec and BERT4Rec on a prepared run of trsr, beside trsr's own.

RecTools needs an environment of its own:

    python -m venv peers
    peers/bin/pip install torch==2.13.0 "rectools[torch]==0.19.0" polars
    trsr run recipes/ml100k_full.toml
    peers/bin/python benchmarks/peers/rectools_networks.py runs/ml100k_full sasrec

It fits on the run's interactions, which hold neither the validation nor the test items, looks at
NDCG@10 on the validation cases every few epochs, keeps the epochs that were best there, and
answers the run's test queries: all films that the user has not seen are candidates. Sizes are those
of trsr's own networks. See answers.py for what is printed and kept.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from statistics import fmean

import pandas as pd
import polars as pl
import torch
from answers import CUT, gain, tell
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import BERT4RecModel, SASRecModel

SIZES = {
    "n_blocks": 2,
    "n_heads": 2,
    "n_factors": 64,
    "dropout_rate": 0.2,
    "session_max_len": 50,
    "lr": 1e-3,
    "batch_size": 32,
    "loss": "softmax",
}
MODELS = {"sasrec": SASRecModel, "bert4rec": BERT4RecModel}


def dataset_of(histories: pl.DataFrame) -> Dataset:
    """RecTools' form of (user, item), in the order seen; its times stand for that order alone."""
    start, places = pd.Timestamp("2000-01-01"), range(len(histories))
    frame = pd.DataFrame(
        {
            Columns.User: histories["user"].to_list(),
            Columns.Item: histories["item"].to_list(),
            Columns.Weight: 1.0,
            Columns.Datetime: start + pd.to_timedelta(places, unit="s"),
        }
    )
    return Dataset.construct(frame)


def values(model: SASRecModel | BERT4RecModel, cases: pl.DataFrame) -> dict[str, float]:
    """NDCG@10 of each query, of one relevant item each."""
    histories = cases.select("user", item="items").explode("item")
    lists = model.recommend(
        users=cases["user"].to_list(), dataset=dataset_of(histories), k=CUT, filter_viewed=True
    )
    ranks = {
        (user, item): rank
        for user, item, rank in zip(
            lists[Columns.User], lists[Columns.Item], lists[Columns.Rank], strict=True
        )
    }
    found = {}
    for query, user, relevant in cases.select("query", "user", "relevant").iter_rows():
        rank = ranks.get((user, relevant[0]))
        found[query] = gain(rank)
    return found


def main() -> None:
    """Fits, chooses the epochs on validation, answers the test queries."""
    ask = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ask.add_argument("run", type=Path)
    ask.add_argument("network", choices=sorted(MODELS))
    ask.add_argument("--epochs", type=int, default=100)
    ask.add_argument("--every", type=int, default=10, help="epochs between looks at validation")
    asked = ask.parse_args()
    warnings.filterwarnings("ignore")
    torch.manual_seed(0)
    seen = pl.read_parquet(asked.run / "interactions.parquet")
    fit = dataset_of(seen.sort("user", "time", maintain_order=True))
    valid, test = (pl.read_parquet(asked.run / f"cases.{one}.parquet") for one in ("valid", "test"))
    model = MODELS[asked.network](**SIZES, epochs=1)
    best, kept, at = -1.0, dict[str, float](), 0
    for epoch in range(asked.every, asked.epochs + 1, asked.every):
        model.fit_partial(fit, min_epochs=asked.every, max_epochs=asked.every)
        reached, answered = fmean(values(model, valid).values()), values(model, test)
        print(f"epoch {epoch}: validation {reached:.4f}", flush=True)  # noqa: T201
        if reached > best:
            best, kept, at = reached, answered, epoch
    tell(asked.run, "RecTools", asked.network, at, kept)


if __name__ == "__main__":
    main()
