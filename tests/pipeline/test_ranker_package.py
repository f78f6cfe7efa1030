"""Another package's ranker: it asks the language model, needs training and owns two settings."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from command_line import trsr
from fitting import fitted
from pipeline_data import CHEAP, SCRIPTED, write_data

from trsr.cli.inspect import components
from trsr.config import load_config
from trsr.data import Catalog
from trsr.errors import ConfigError, PluginError
from trsr.pipeline import run
from trsr.rankers import QueryBatch, read_rankings
from trsr.recommender import Recommender
from trsr.storage.run_directory import RunDirectory
from trsr.types import Item, Query, UserHistory

MODULE = '''
from pydantic import Field
from trsr.rankers import Ranker, RankerConfig, ScoreBatch, Traits, PointwiseLLMRanker


class CarefulConfig(RankerConfig):
    """Margins that popularity holds back."""

    weight: float = Field(0.5, ge=0, description="of popularity")
    shift: float = Field(0.0, description="added to each score")


class CarefulRanker(Ranker):
    """The trained model's margin and a share of popularity."""

    traits = Traits(uses_llm=True, needs_training=True, reads_summary=True)
    config: CarefulConfig

    def fit(self, data, options):
        met = dict(data.interactions["item"].value_counts().iter_rows())
        self.shares_ = [met.get(item, 0) / len(data.interactions) for item in data.catalog.ids]

    def score(self, batch):
        asked = PointwiseLLMRanker(*self.resources.model(True))
        shares = [self.shares_[number] for number in batch.columns]
        added = [self.config.weight * share + self.config.shift for share in shares]
        return ScoreBatch(asked.score(batch).scores + added)
'''


def install(folder, name, module, text, points):
    """A folder of packages as pip leaves it, with one of one module in it."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / f"{module}.py").write_text(text, "utf-8")
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = [
        f"[{group}]\n" + "".join(f"{part} = {place}\n" for part, place in parts.items())
        for group, parts in points.items()
    ]
    (info / "entry_points.txt").write_text("\n".join(lines))
    return folder


@pytest.fixture
def _installed(tmp_path, monkeypatch):
    points = {"trsr.rankers": {"careful": "careful_ranker:CarefulRanker"}}
    site = install(tmp_path / "site", "careful-ranker", "careful_ranker", MODULE, points)
    monkeypatch.syspath_prepend(site)
    yield
    sys.modules.pop("careful_ranker", None)


@pytest.mark.usefixtures("_installed")
@pytest.mark.timeout(300)
def test_it_works_in_a_run_by_what_its_traits_say(small_run, tmp_path) -> None:
    path = small_run(tmp_path)
    with path.open("a") as file:
        file.write('[rank]\nrankers = ["popular", "careful"]\n[rank.careful]\nshift = 2.0\n')
    folder = f"run.folder={tmp_path / 'run'}"
    config = load_config(path, [folder, "train.epochs=1", "train.validate_steps=0"])
    assert config.trained
    assert config.rank.table("careful").model_dump() == {"weight": 0.5, "shift": 2.0}
    assert [one.stage for one in run(config) if one.made][2] == "train"
    records = RunDirectory(tmp_path / "run").records()
    assert records["train"].info["steps"] > 0
    assert records["summarize"].info["summaries"] > 0
    stored = list(read_rankings(tmp_path / "run" / "rankings.parquet")["careful"])
    recommender = Recommender.load(tmp_path / "run", "careful")
    found = list(recommender.rank(recommender.dataset.cases("test").queries()))
    assert [[e.item for e in one] for one in found] == [[e.item for e in one] for one in stored]
    assert "careful" in (tmp_path / "run" / "report.md").read_text("utf-8")

    again = load_config(path, [folder, *("train.epochs=1", "train.validate_steps=0")])
    assert not [one.stage for one in run(again) if one.made]
    other = load_config(
        path, [folder, "train.epochs=1", "train.validate_steps=0", "rank.careful.weight=0.1"]
    )
    assert [one.stage for one in run(other) if one.made] == ["rank", "evaluate"]


@pytest.mark.usefixtures("_installed")
def test_its_settings_are_checked_as_trsrs_own(small_run, tmp_path) -> None:
    path = small_run(tmp_path)
    wrong = ["rank.careful.wieght=1", "rank.careful.shift=high", "rank.carefull.weight=1"]
    with pytest.raises(ConfigError) as told:
        load_config(path, wrong)
    for said in (
        "rank.careful.wieght: unknown setting: did you mean weight?",
        "rank.careful.shift: input should be a valid number",
        "rank.carefull: unknown setting: did you mean careful?",
    ):
        assert said in str(told.value)
    with pytest.raises(ConfigError, match=r"rank\.careful\.weight: .*greater than or equal to 0"):
        load_config(path, ["rank.careful.weight=-1"])
    untrained = ["rank.rankers=['careful']", "train.epochs=0"]
    with pytest.raises(
        ConfigError, match=r"careful needs the trained model, but train\.epochs is 0"
    ):
        load_config(path, untrained)
    assert "careful" in "\n".join(components("rankers"))


@pytest.fixture
def fading(tmp_path, monkeypatch):
    """The package of docs/contributing.md, installed; its module's file."""
    text = (Path(__file__).parents[2] / "docs" / "contributing.md").read_text("utf-8")
    code = {what: re.search(rf"```{what}\n(.*?)```", text, re.S)[1] for what in ("python", "toml")}
    project = tomllib.loads(code["toml"])["project"]
    points = project["entry-points"]
    module = points["trsr.rankers"]["fading"].partition(":")[0]
    site = install(tmp_path / "site", project["name"], module, code["python"], points)
    monkeypatch.syspath_prepend(site)
    yield site / f"{module}.py"
    sys.modules.pop(module, None)


def run_cheaply(folder, *more):
    write_data(folder)
    (folder / "cheap.toml").write_text(CHEAP)
    own = ("rank.rankers=['popular', 'fading']", "rank.fading.half_life=[0.0001, 1]")
    return load_config(folder / "cheap.toml", [f"run.folder={folder / 'run'}", *own, *more])


@pytest.mark.usefixtures("fading")
def test_the_documented_one_does_what_it_says():
    day = 86_400.0
    log = pl.DataFrame(
        {"user": ["u", "u", "v"], "item": ["a", "b", "a"], "time": [10 * day, 40 * day, 40 * day]}
    )
    items = [Item(name) for name in "abc"]
    catalog = Catalog(pl.DataFrame({"id": [one.id for one in items]}))
    ranker = fitted("fading", catalog, log)
    asked = (*items, Item("new"))
    batch = QueryBatch.of([Query("q", UserHistory("u", ()), asked)], catalog)
    found = dict(zip(batch.item_ids(batch.columns), ranker.score(batch).scores[0], strict=True))
    np.testing.assert_allclose([found[one.id] for one in asked], [1.5, 1.0, 0.0, 0.0])


@pytest.mark.usefixtures("fading")
def test_the_documented_one_runs_is_tuned_and_its_version_is_recorded(tmp_path):
    config = run_cheaply(tmp_path)
    list(run(config))
    rank = RunDirectory(config.run.folder).records()["rank"].info
    assert "best of 2" in rank["chosen"]["fading"]["why"]
    assert rank["versions"]["trsr-fading"] == "1.0"
    assert "trsr-fading" in (config.run.folder / "report.html").read_text("utf-8")


def test_a_run_without_the_package_names_it(tmp_path, fading, monkeypatch):
    config = run_cheaply(tmp_path)
    list(run(config))
    saved = Recommender.load(config.run.folder).save(tmp_path / "saved")
    monkeypatch.setattr(sys, "path", [one for one in sys.path if one != str(fading.parent)])
    for place in (config.run.folder, saved):
        with pytest.raises(ConfigError, match="fading is of the package trsr-fading 1.0, which is"):
            Recommender.load(place)


@pytest.mark.parametrize(
    ("good", "bad", "said"),
    [
        ("sums = dict(", "sums = list(", "failed in fit: AttributeError"),
        ("return ScoreBatch(", "return float(", "failed in score: TypeError"),
        ("return ScoreBatch(", "return np.array(", "gave ndarray where a ScoreBatch was due"),
        ("import numpy", "import nothing_of_this_name", "failed in its import: ModuleNotFound"),
    ],
)
def test_one_that_fails_is_named_with_its_package_and_line(tmp_path, fading, good, bad, said):
    fading.write_text(fading.read_text("utf-8").replace(good, bad), "utf-8")
    write_data(tmp_path)
    (tmp_path / "cheap.toml").write_text(CHEAP)
    found = trsr("run", "cheap.toml", "rank.rankers=['fading']", cwd=tmp_path, code=2).stderr
    text = " ".join(found.split())
    assert said in text
    assert "ScoreBatch was due" in text or f"{fading}:" in text.replace("\n", "")


def test_what_it_raised_is_the_cause(tmp_path, fading):
    fading.write_text(fading.read_text("utf-8").replace("sums = dict(", "sums = list("), "utf-8")
    config = run_cheaply(tmp_path)
    with pytest.raises(PluginError, match="trsr-fading 1.0") as found:
        list(run(config))
    assert isinstance(found.value.__cause__, AttributeError)


ODD = """
from trsr.methods import Method
from trsr.models.scripted import ScriptedModel
from trsr.pipeline.runner import Stage


class OddStrategy:
    def __init__(self, writer, settings):
        self.writer = writer

    def flow(self, blocks):
        yield [self.writer.nothing_of_this_name(blocks)]


class OddModel(ScriptedModel):
    def generate(self, prompts, sampling):
        yield 0, next(prompts).nothing_of_this_name

    def score(self, prompts, answers):
        return prompts.nothing_of_this_name


def open_nothing(settings, adapter):
    return settings.nothing_of_this_name


def open_odd(settings, adapter):
    return OddModel(identity="odd", context_tokens=1024, in_flight=4)


STAGE = Stage("odd", (), (), lambda config: {}, lambda job: job.nothing_of_this_name)
METHOD = Method("odd", "odd", "nowhere", ("prepare", "odd"))
BARE = {"stages": ["prepare"]}
"""


@pytest.fixture
def odd(tmp_path, monkeypatch):
    points = {
        "trsr.strategies": {"odd": "odd_parts:OddStrategy"},
        "trsr.models": {"odd": "odd_parts:open_odd", "closed": "odd_parts:open_nothing"},
        "trsr.stages": {"odd": "odd_parts:STAGE"},
        "trsr.methods": {"odd": "odd_parts:METHOD", "bare": "odd_parts:BARE"},
    }
    site = install(tmp_path / "site", "odd-parts", "odd_parts", ODD, points)
    monkeypatch.syspath_prepend(site)
    yield site / "odd_parts.py"
    sys.modules.pop("odd_parts", None)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["summarize.strategy=odd"], "the strategy odd of the package odd-parts 1.0 failed in the"),
        (["model.backend=odd"], "the model backend odd of the package odd-parts 1.0 failed in the"),
        (["model.backend=odd", "summarize.strategy=none"], "1.0 failed in the stage rank: Attrib"),
        (
            ["model.backend=closed"],
            "the model backend closed of the package odd-parts 1.0 failed in",
        ),
        (
            ["method=odd", "summarize.strategy=none"],
            "the stage odd of the package odd-parts 1.0 failed in the stage odd: Attr",
        ),
        (
            ["method=bare"],
            "the method bare of the package odd-parts 1.0 failed in its settings: At",
        ),
    ],
)
def test_other_parts_that_fail_are_named_too(tmp_path, odd, settings, said):
    write_data(tmp_path)
    text = SCRIPTED.replace('strategy = "none"', 'strategy = "recurrent"\nblock_items = 3')
    (tmp_path / "mine.toml").write_text(text)
    words = ["rank.rankers=['llm_zero_shot']", *settings]
    found = " ".join(trsr("run", "mine.toml", *words, cwd=tmp_path, code=2).stderr.split())
    assert said in found
    assert "AttributeError" in found


def test_a_model_that_fails_after_the_run_is_named(tmp_path, odd):
    write_data(tmp_path)
    (tmp_path / "mine.toml").write_text(SCRIPTED)
    text = odd.read_text("utf-8")
    odd.write_text(text.replace("    def score", "    def scored"), "utf-8")
    words = ["rank.rankers=['llm_zero_shot']", "model.backend=odd"]
    trsr("run", "mine.toml", *words, cwd=tmp_path)
    sys.modules.pop("odd_parts")
    odd.write_text(text, "utf-8")
    found = trsr("recommend", "runs/mine", "u3", cwd=tmp_path, code=2).stderr
    assert "the model backend odd of the package odd-parts 1.0 failed in score" in " ".join(
        found.split()
    )
