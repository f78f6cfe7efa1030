"""The paper's recipes, on rows in the exact raw formats, with a tiny model."""

from __future__ import annotations

import json
import random

import pytest

from trsr.config import load_config
from trsr.pipeline import run

pytest.importorskip("torch", reason="the extra `local` is not installed")

SMALL = [
    "model.name=./tiny",
    "model.dtype=float32",
    "model.context_tokens=1024",
    "summarize.model.name=./tiny",
    "summarize.model.quantize=none",
    "summarize.sampling.max_tokens=4",
    "data.train_users=6",
    "data.valid_cases=3",
    "data.test_cases=5",
    "prompts.words=5",
    "prompts.summary_item_words=5",
    "train.epochs=1",
    "train.cases_per_step=3",
    "train.validate_steps=2",
]


def write_mind(folder, draw):
    """behaviors.tsv and news.tsv: tabs, no header, history and impressions by spaces."""
    news = [f"N{n}" for n in range(80)]
    with (folder / "news.tsv").open("w") as file:
        for n in news:
            file.write(f"{n}\tsports\tsoccer\tTitle of {n}\tAbstract\thttps://x/{n}.html\t[]\t[]\n")
    with (folder / "behaviors.tsv").open("w") as file:
        for row in range(20):
            history = " ".join(draw.sample(news, draw.randint(11, 20)))
            shown = " ".join(f"{n}-{draw.randint(0, 1)}" for n in draw.sample(news, 4))
            file.write(f"{row}\tU{row}\t11/12/2019 2:14:{row + 10} PM\t{history}\t{shown}\n")
    return [f"data.interactions={folder}", f"data.items={folder}"]


def write_amazon_m2(folder, draw):
    """sessions_train.csv with numpy-printed lists, and products_train.csv."""
    ids = [f"B0{n:08d}" for n in range(80)]
    with (folder / "products_train.csv").open("w") as file:
        file.write("id,locale,title,price,brand,color,size,model,material,author,desc\n")
        for n in ids:
            file.write(f'{n},UK,"A kettle, {n}",12.5,Ajax,,1 l,,steel,,"Boils ""fast"""\n')
            file.write(f"{n},DE,Ein Kessel,12.5,Ajax,,,,,,\n")
    with (folder / "sessions_train.csv").open("w") as file:
        file.write("prev_items,next_item,locale\n")
        for row in range(24):
            *before, last = draw.sample(ids, draw.randint(11, 18))
            lines = [before[at : at + 4] for at in range(0, len(before), 4)]
            printed = "\n ".join(" ".join(f"'{n}'" for n in line) for line in lines)
            file.write(f'"[{printed}]",{last},{"UK" if row < 20 else "DE"}\n')
    sessions, products = folder / "sessions_train.csv", folder / "products_train.csv"
    return [f"data.interactions={sessions}", f"data.items={products}"]


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("recipe", "write"), [("mind", write_mind), ("amazon_m2", write_amazon_m2)]
)
def test_the_papers_recipes_run_on_rows_in_the_raw_formats(tmp_path, monkeypatch, recipe, write):
    from tiny import tiny_model_folder

    monkeypatch.chdir(tmp_path)
    tiny_model_folder(tmp_path / "tiny")
    config = load_config(recipe, [*SMALL, *write(tmp_path, random.Random(5))])
    assert config.train.loss == "text"
    assert config.data.split == "rows"
    outcomes = list(run(config))
    assert [one.made for one in outcomes] == [True] * 5
    report = json.loads((tmp_path / "runs" / recipe / "report.json").read_text())
    assert report["queries"] == 5
    assert report["candidates"] == {"fewest": 21, "most": 21}
    assert set(report["rankers"]) == {"random", "popular", "llm_zero_shot", "llm"}
    assert (tmp_path / "runs" / recipe / "adapter" / "adapter_model.safetensors").exists()


def test_python_users_have_each_stage_and_the_recommender(tmp_path, monkeypatch, small_run):
    import trsr

    monkeypatch.chdir(tmp_path)
    config = trsr.load_config(small_run(tmp_path), ["train.epochs=1", "train.validate_steps=0"])
    stages = ("prepare", "summarize", "train", "rank", "evaluate")
    assert all(getattr(trsr, f"run_{stage}")(config).made for stage in stages)
    recommender = trsr.Recommender.load(tmp_path / "runs" / "small")
    history = recommender.dataset.history("u3")
    query = trsr.Query("q", history, recommender.propose(history, 5))
    (ranked,) = recommender.rank([query])
    assert {entry.item for entry in ranked} == {item.id for item in query.candidates}
    assert not {entry.item for entry in ranked} & {item.id for item in history.items}
