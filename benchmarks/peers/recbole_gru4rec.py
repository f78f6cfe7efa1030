"""RecBole's GRU4Rec on a prepared run of trsr, beside trsr's own.

RecBole needs an environment of its own:

    python -m venv peers
    peers/bin/pip install torch==2.13.0 recbole==1.2.1 "numpy<2" "pandas<3" "setuptools<80" polars
    trsr run recipes/ml100k_full.toml
    peers/bin/python benchmarks/peers/recbole_gru4rec.py runs/ml100k_full

It gives RecBole the run's users with their items in the order seen, lets it leave the last two out,
train on what is before with its own settings, and stop when NDCG@10 of its own validation has not
grown for ten epochs; the weights that were best there answer the run's test queries: all films that
the user has not seen are candidates. See answers.py for what is printed and kept. An epoch takes a
minute or more; a killed call leaves its state in the run's folder, and the same one goes on.
"""

from __future__ import annotations

import argparse
import copy
import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

import polars as pl
import torch
from answers import CUT, gain, tell
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.data.dataloader import TrainDataLoader
from recbole.data.dataset import SequentialDataset
from recbole.data.interaction import Interaction
from recbole.model.sequential_recommender import GRU4Rec
from recbole.trainer import Trainer
from recbole.utils import init_logger, init_seed

STATE = "recbole_gru4rec.state"
"""In the run's folder while it trains."""

SETTINGS = {
    "USER_ID_FIELD": "user_id",
    "ITEM_ID_FIELD": "item_id",
    "TIME_FIELD": "timestamp",
    "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
    "eval_args": {
        "split": {"LS": "valid_and_test"},
        "group_by": None,
        "order": "TO",
        "mode": "full",
    },
    "train_neg_sample_args": None,  # cross-entropy over all items
    "MAX_ITEM_LIST_LENGTH": 50,
    "metrics": ["NDCG"],
    "topk": [CUT],
    "valid_metric": f"NDCG@{CUT}",
    "stopping_step": 10,
    "use_gpu": False,
    "seed": 0,
    "show_progress": False,
}


def write_sequences(cases: pl.DataFrame, folder: Path) -> None:
    """RecBole's file of (user, item, time); times are places in the user's order."""
    rows = cases.select("user", item=pl.concat_list("items", "relevant")).with_columns(
        place=pl.int_ranges(pl.col("item").list.len())
    )
    table = rows.explode("item", "place").select(
        pl.col("user").alias("user_id:token"),
        pl.col("item").alias("item_id:token"),
        pl.col("place").cast(pl.Float64).alias("timestamp:float"),
    )
    folder.mkdir(parents=True)
    table.write_csv(folder / f"{folder.name}.inter", separator="\t")


@torch.no_grad()
def values(model: GRU4Rec, data: SequentialDataset, cases: pl.DataFrame) -> dict[str, float]:
    """NDCG@10 of each query among the items that its user has not seen, of one relevant each."""
    model.eval()
    longest, found = SETTINGS["MAX_ITEM_LIST_LENGTH"], {}
    for query, items, seen, relevant in cases.select(
        "query", "items", "seen", "relevant"
    ).iter_rows():
        last = data.token2id("item_id", items[-longest:])
        shown = torch.zeros(1, longest, dtype=torch.int64)
        shown[0, : len(last)] = torch.as_tensor(last)
        length = torch.tensor([len(last)])
        asked = Interaction({model.ITEM_SEQ: shown, model.ITEM_SEQ_LEN: length})
        scores = model.full_sort_predict(asked).flatten()
        scores[0] = -torch.inf  # the padding
        scores[torch.as_tensor(data.token2id("item_id", seen))] = -torch.inf
        target = data.token2id("item_id", relevant[0])
        found[query] = gain(1 + int((scores > scores[target]).sum()))
    return found


def main() -> None:
    """Fits, keeps the weights that were best on validation, answers the test queries."""
    ask = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ask.add_argument("run", type=Path)
    run = ask.parse_args().run
    warnings.filterwarnings("ignore")
    test = pl.read_parquet(run / "cases.test.parquet")
    with tempfile.TemporaryDirectory() as folder:
        write_sequences(test, Path(folder) / "sequences")
        config = Config(
            model="GRU4Rec",
            dataset="sequences",
            config_dict=SETTINGS | {"data_path": folder, "checkpoint_dir": folder},
        )
        init_seed(config["seed"], config["reproducibility"])
        init_logger(config)
        data = create_dataset(config)
        train, valid, _ = data_preparation(config, data)
    model = GRU4Rec(config, train.dataset)
    trainer = Trainer(config, model)
    state = _State(run / STATE, trainer, train)
    trainer.fit(train, valid, saved=False, callback_fn=state.keep)
    model.load_state_dict(state.best)
    tell(run, "RecBole", "gru4rec", state.epochs, values(model, data, test))
    state.path.unlink(missing_ok=True)


class _State:
    """The best weights so far, and a file of all that a killed training needs to go on.

    Args:
        path: The file.
        trainer: Not yet begun; set to where the file says.
        train: The batches, whose order goes on too.
    """

    def __init__(self, path: Path, trainer: Trainer, train: TrainDataLoader) -> None:
        self.path = path
        self._trainer, self._train = trainer, train
        self._reached = -1.0
        self.epochs = 0
        self.best = copy.deepcopy(trainer.model.state_dict())
        if path.exists():
            self._go_on(torch.load(path, weights_only=True))

    def keep(self, epoch: int, reached: float) -> None:
        """Notes an epoch that ended."""
        if reached > self._reached:
            self._reached, self.epochs = float(reached), epoch + 1
            self.best = copy.deepcopy(self._trainer.model.state_dict())
        part = self.path.with_suffix(".part")
        torch.save(
            {
                "done": epoch + 1,
                "since": self._trainer.cur_step,
                "reached": self._reached,
                "epochs": self.epochs,
                "best": self.best,
                "model": self._trainer.model.state_dict(),
                "optimizer": self._trainer.optimizer.state_dict(),
                "order": self._train.generator.get_state(),
                "draws": torch.get_rng_state(),
            },
            part,
        )
        os.replace(part, self.path)

    def _go_on(self, state: dict[str, Any]) -> None:
        self._reached, self.epochs, self.best = state["reached"], state["epochs"], state["best"]
        self._trainer.start_epoch = state["done"]
        self._trainer.cur_step = state["since"]
        self._trainer.best_valid_score = state["reached"]
        self._trainer.model.load_state_dict(state["model"])
        self._trainer.optimizer.load_state_dict(state["optimizer"])
        self._train.generator.set_state(state["order"])
        torch.set_rng_state(state["draws"])


if __name__ == "__main__":
    main()
