"""MLLM-MSR: images become words once each, and a ranker that looks at a picture must use it."""

from __future__ import annotations

import io
import json
import random
from base64 import b64decode
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from chat_endpoint import Call, Endpoint
from drawn import picture, write_shop
from tiny_vision import vision_folder

from trsr.cli.inspect import check_all
from trsr.config import Config, load_config
from trsr.errors import ConfigError, DataError, ModelError, PromptError, StoreError
from trsr.pipeline import run, run_stage
from trsr.recommender import Recommender
from trsr.storage.images import read_image
from trsr.types import Item, Query

Image = pytest.importorskip("PIL.Image", reason="the extra 'images' is not installed")
pytest.importorskip("torch", reason="the extra 'local' is not installed")

CONFIG = """
method = "mllm_msr"

[data]
interactions = "clicks.csv"
items = "items.csv"
images = "photo"
min_history = 6
negatives = 10
valid_cases = 1
test_cases = 24

[prompts]
fields = ["title", "image_description"]
recent = 1

[summarize]
strategy = "none"

[model]
name = "MODEL"
dtype = "float32"

[describe]
words = 5

[train]
epochs = 3
learning_rate = 1e-2
warmup_steps = 5
dropout = 0.0

[rank]
rankers = ["llm_zero_shot", "llm"]
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shop")
    write_shop(folder)
    vision_folder(folder / "model", "smolvlm")
    (folder / "c.toml").write_text(CONFIG.replace("MODEL", str(folder / "model")))
    return folder


def load(shop: Path, *changes: str, place: str = "run") -> Config:
    place_in = [f"run.folder={shop / place}", f"run.cache={shop / place}.sqlite"]
    return load_config(shop / "c.toml", [*place_in, *changes])


@pytest.fixture(scope="module")
def made(shop: Path) -> Config:
    config = load(shop, "prompts.fields=['title']")
    assert [one.stage for one in run(config)][:2] == ["prepare", "describe"]
    return config


def auc(recommender: Recommender, pictures: dict[str, str]) -> float:
    """The mean share of negatives below the target, ties half; items have these pictures."""
    shares = []
    cases = list(recommender.dataset.cases("test"))
    queries = [_dealt(case.query, pictures) for case in cases]
    ranker = recommender.fitted("llm")
    for case, ranked in zip(cases, ranker.rank(queries), strict=True):
        scores = {entry.item: entry.score for entry in ranked.entries}
        (target,) = case.relevant
        rest = [score for item, score in scores.items() if item != target]
        below = [(score < scores[target]) + 0.5 * (score == scores[target]) for score in rest]
        shares.append(sum(below) / len(below))
    return sum(shares) / len(shares)


def _dealt(query: Query, pictures: dict[str, str]) -> Query:
    shown = tuple(Item(one.id, one.fields, pictures.get(one.id, "")) for one in query.candidates)
    return Query(query.id, query.history, shown)


def test_the_ranker_uses_the_picture_and_without_the_right_one_it_guesses(made: Config) -> None:
    recommender = Recommender.load(made.run.folder, "llm")
    right = dict(recommender.catalog.images)
    assert auc(recommender, right) > 0.9
    dealt = []
    for seed in range(8):
        files = list(right.values())
        random.Random(seed).shuffle(files)
        dealt.append(auc(recommender, dict(zip(right, files, strict=True))))
    assert abs(sum(dealt) / len(dealt) - 0.5) < 0.1
    assert auc(recommender, {}) == 0.5  # titles say nothing


def test_a_run_moves_with_its_pictures(made: Config, tmp_path: Path) -> None:
    kept = Recommender.load(made.run.folder, "llm").save(tmp_path / "kept")
    catalog = Recommender.load(kept, "llm").catalog
    assert len(catalog.images) == len(catalog)
    assert all(Path(path).parent == kept / "images" for path in catalog.images.values())
    assert "image_description" in catalog.columns


def painter(calls: list[str]) -> Any:
    """An endpoint that looks at the picture."""

    def conduct(call: Call) -> None:
        image, text = call.body["messages"][-1]["content"]
        kind, _, data = image["image_url"]["url"].partition(";base64,")
        shown = Image.open(io.BytesIO(b64decode(data))).convert("RGB")
        red, _, blue = shown.resize((1, 1)).getpixel((0, 0))
        calls.append(kind)
        assert "at most 5 words" in text["text"]
        call.answer(f"a {'red' if red > blue else 'blue'} thing on white, with no\nwriting")

    return conduct


def at(endpoint: Endpoint) -> list[str]:
    model = {"backend": "openai", "name": "seer", "base_url": endpoint.url, "retries": 2}
    return [f"describe.model.{key}={value}" for key, value in model.items()]


@pytest.fixture
def serve() -> Any:
    pytest.importorskip("openai", reason="the extra 'openai' is not installed")
    opened: list[Endpoint] = []

    def start(conduct: Any) -> Endpoint:
        opened.append(Endpoint(conduct))
        return opened[-1]

    yield start
    for endpoint in opened:
        endpoint.close()


def test_each_content_is_described_once_and_its_words_are_a_field(shop: Path, serve: Any) -> None:
    calls: list[str] = []
    endpoint = serve(painter(calls))
    alone = ["train.epochs=0", "rank.rankers=['bm25']", "prompts.candidate_image=false"]
    config = load(shop, *alone, *at(endpoint), place="told")
    outcomes = {one.stage: one for one in run(config)}
    images = pl.read_parquet(config.run.folder / "images.parquet")
    assert len(calls) == images["file"].n_unique() < len(images)  # one drawn twice is asked once
    assert set(calls) == {"data:image/png"}
    info = outcomes["describe"].info
    assert (info["items"], info["asked"], info["empty"]) == (len(images), len(calls), 0)
    found = pl.read_parquet(config.run.folder / "descriptions.parquet")
    assert found.columns == ["item", "digest", "text"]
    assert set(found["text"]) == {"a red thing on white,", "a blue thing on white,"}  # five words
    report = json.loads((config.run.folder / "report.json").read_text())
    assert report["rankers"]["bm25"]["metrics"]["auc"]["mean"] > 0.9
    # a second run asks nothing, nor does one that lost its file
    assert not any(one.made for one in run(config))
    (config.run.folder / "descriptions.parquet").unlink()
    again = run_stage(config, "describe")
    assert again.made
    assert (again.info["asked"], len(calls)) == (0, info["asked"])
    # another picture under the same name is another picture, and only it is asked about
    old = (shop / "photos" / "i3.png").read_bytes()
    try:
        picture((0, 200, 0), random.Random(9)).save(shop / "photos" / "i3.png")
        remade = {one.stage: one for one in run(config)}
        assert "image files" in remade["prepare"].why
        assert (remade["describe"].info["asked"], len(calls)) == (1, info["asked"] + 1)
    finally:
        (shop / "photos" / "i3.png").write_bytes(old)


def test_what_was_described_before_a_failure_is_not_asked_again(shop: Path, serve: Any) -> None:
    calls: list[str] = []
    right = painter(calls)

    def failing(call: Call) -> None:
        if len(calls) == 7:
            call.refuse(403, "the quota is used up")
        else:
            right(call)

    one = "describe.model.concurrency=1"
    broken = load(shop, *at(serve(failing)), one, place="broken")
    run_stage(broken, "prepare")
    with pytest.raises(ModelError, match="the quota is used up"):
        run_stage(broken, "describe")
    assert not (broken.run.folder / "descriptions.parquet").exists()
    calls[6:] = ["", *calls[6:]]  # past the quota
    again = run_stage(broken, "describe")
    assert again.info["from_store"] == 7
    assert again.info["asked"] == again.info["images"] - 7


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (400, "m is not a multimodal model"),
        (500, "image input is not supported - hint: you may need to provide the mmproj"),
    ],
)
def test_an_endpoint_that_takes_no_images_is_told_at_once(
    shop: Path, serve: Any, status: int, message: str
) -> None:
    endpoint = serve(lambda call: call.refuse(status, message))
    config = load(shop, *at(endpoint), "describe.model.concurrency=1", place=f"blind{status}")
    run_stage(config, "prepare")
    with pytest.raises(ModelError, match=rf"takes no images for the model seer \(HTTP {status}"):
        run_stage(config, "describe")
    assert len(endpoint.bodies) == 1  # not tried again


def test_a_picture_that_the_model_refuses_is_named_and_the_others_are_described(
    shop: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old = (shop / "photos" / "i5.png").read_bytes()
    vision_folder(shop / "qwen", "qwen2_vl")
    try:
        Image.new("RGB", (600, 2), "red").save(shop / "photos" / "i5.png")
        config = load(shop, f"model.name={shop / 'qwen'}", place="strip")
        run_stage(config, "prepare")
        made = run_stage(config, "describe").info
    finally:
        (shop / "photos" / "i5.png").write_bytes(old)
    assert (made["refused"], made["items"], made["without"]) == (1, 39, 1)
    assert "item i5 is not described" in caplog.text
    assert "aspect ratio" in caplog.text
    with pytest.raises(StoreError, match="give `trsr run` again"):
        read_image(str(config.run.folder / "images" / "gone.png"))


def test_a_prompt_with_its_image_that_is_too_long_is_refused_before_training(shop: Path) -> None:
    config = load(shop, "model.context_tokens=150", "describe.words=5", place="short")
    run_stage(config, "prepare")
    run_stage(config, "describe")
    run_stage(config, "summarize")
    with pytest.raises(
        PromptError, match=r"query train/.* a candidate and its image \(which takes"
    ):
        run_stage(config, "train")


def test_what_cannot_be_is_told_by_check(shop: Path, tmp_path: Path) -> None:
    lines = list(check_all(shop / "c.toml", []))
    assert any("items with an image" in line for line in lines)
    assert any(line.startswith("model for images: ") for line in lines)
    with pytest.raises(ConfigError, match="smollm2-135m takes no images"):
        list(check_all(shop / "c.toml", ["model.name=smollm2-135m"]))
    with pytest.raises(ConfigError, match=r"data.images: the method mllm_msr describes images"):
        load(shop, "data.images=''")
    with pytest.raises(ConfigError, match="openvino takes text alone"):
        load(shop, "model.backend=openvino")


def test_items_without_a_picture_are_shown_as_having_none(shop: Path) -> None:
    table = (shop / "items.csv").read_text()
    try:
        (shop / "items.csv").write_text(table.replace("photos/i0.png", ""))
        config = load(shop, "data.max_without_image=0", place="strict")
        with pytest.raises(DataError, match="1 of 40 items have no image"):
            run_stage(config, "prepare")
        config = load(shop, place="told_none")
        assert run_stage(config, "prepare").info["counts"]["items_without_image"] == 1
    finally:
        (shop / "items.csv").write_text(table)
    from trsr.data import Dataset
    from trsr.prompts import PromptWriter
    from trsr.types import UserHistory

    items = tuple(Dataset.load(config.run.folder).catalog[name] for name in ("i0", "i1"))
    writer = PromptWriter(config.prompts, lambda prompt: 1, 1000)
    without, with_image = writer.rank(Query("q", UserHistory("u", ()), items))
    assert without.messages[-1].content.endswith("title: Thing (no image)")
    assert with_image.messages[-1].other is not None
