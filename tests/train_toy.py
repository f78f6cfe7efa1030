"""A toy task that a tiny model can learn, and the short prompts that ask it."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from trsr.models import ModelSettings
from trsr.progress import Silent
from trsr.training import TrainResult, train
from trsr.training.settings import TrainSettings
from trsr.training.vectors import train_vectors
from trsr.types import Case, Interaction, Item, Message, Prompt, Query, UserHistory

WORDS = ["bolt", "lamp", "sea", "film", "quiet", "loud", "pack", "steel"]


class ToyWriter:
    """A few words a prompt, the candidate last; the tiny tokenizer makes few tokens of them."""

    def __init__(self, answers: tuple[str, str] = ("Yes", "No")) -> None:
        self.answers = answers
        self.shortened = 0

    def rank(self, query: Query) -> list[Prompt]:
        user = " ".join(item.fields[0][1] for item in query.history.items)
        return [
            Prompt(
                (
                    Message("system", "Does the user take the next item?"),
                    Message("user", f"{user}. next item: {item.fields[0][1]}"),
                )
            )
            for item in query.candidates
        ]


def toy_case(number: int, candidates: int = 3, relevant: int = 1) -> Case:
    """A user of random items, who always takes those that are called `Yes`."""
    draw = random.Random(number)
    past = [Item(f"h{i}", (("title", draw.choice(WORDS)),)) for i in range(2)]
    names = ["Yes"] * relevant + ["loud"] * (candidates - relevant)
    draw.shuffle(names)
    items = [
        Item(f"i{place}", (("title", f"{name} {draw.choice(WORDS)}"),))
        for place, name in enumerate(names)
    ]
    history = UserHistory(f"u{number}", tuple(Interaction(item, 0.0) for item in past))
    wanted = frozenset(item.id for item, name in zip(items, names, strict=True) if name == "Yes")
    return Case(Query(f"train/u{number}/2", history, tuple(items)), wanted)


def toy_cases(n: int = 10, **more: int) -> list[Case]:
    return [toy_case(number, **more) for number in range(n)]


QUICK = {
    "loss": "listwise",
    "learning_rate": 1e-2,
    "warmup_steps": 1,
    "cases_per_step": 4,
    "epochs": 2,
    "checkpoint_steps": 2,
}


def toy_train(model: Path, folder: Path, cases: Any = None, **more: Any) -> TrainResult:
    """Trains a tiny model into `folder/out`, its states in `folder/state`.

    Keywords of `train` and of `ModelSettings` go there, all others are training settings.
    """
    own = {
        "validate": more.pop("validate", None),
        "progress": more.pop("progress", None) or Silent(),
        "seed": more.pop("seed", 0),
    }
    writer = more.pop("writer", None) or ToyWriter()
    told = {key: more.pop(key) for key in ("batch_tokens", "dtype", "backend") if key in more}
    return train(
        toy_cases() if cases is None else cases,
        model=ModelSettings(name=str(model), **{"dtype": "float32", "device": "cpu", **told}),
        words=lambda _: writer,
        settings=TrainSettings(**{**QUICK, **more}),
        out=folder / "out",
        state=folder / "state",
        **own,
    )


def toy_train_vectors(
    model: Path, folder: Path, cases: list[Case], words: Any, count: int, **more: Any
) -> TrainResult:
    """The same with a ranker of item vectors, and its encoder, by the three trainings.

    `words` makes the writer for a model; `count` vectors stand for an item. Keywords of
    `train_vectors` go there, all others are training settings.
    """
    own = {key: more.pop(key) for key in ("summary", "reach") if key in more}
    items = [item for one in cases for item in (*one.query.candidates, *one.query.history.items)]
    return train_vectors(
        cases,
        list(dict.fromkeys(item.fields[0][1] for item in items)),
        model=ModelSettings(name=str(model), dtype="float32", device="cpu"),
        words=words,
        count=count,
        seed=0,
        out=folder / "out",
        state=folder / "state",
        validate=None,
        progress=more.pop("progress", None) or Silent(),
        settings=TrainSettings(**{**QUICK, **more}),
        **own,
    )


def recall(model: Any, cases: list[Case], writer: ToyWriter | None = None) -> float:
    """The share of cases whose best-scored candidate is relevant."""
    writer = writer or ToyWriter()
    hits = []
    for case in cases:
        found = model.score(writer.rank(case.query), writer.answers)
        best = int(np.argmax(found[:, 0] - found[:, 1]))
        hits.append(case.query.candidates[best].id in case.relevant)
    return float(np.mean(hits))


def metrics(recall_at_3: float) -> Mapping[str, float]:
    """What a validation gives, all in one number."""
    return {"recall@3": recall_at_3, "recall@5": 0.0, "recall@10": 0.0}
