"""Another package's ranker: it asks the language model, needs training and owns two settings."""

from __future__ import annotations

import sys

import pytest

from trsr.cli.inspect import components
from trsr.config import load_config
from trsr.errors import ConfigError
from trsr.pipeline import run
from trsr.rankers import read_rankings
from trsr.recommender import Recommender
from trsr.storage.run_directory import RunDirectory

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


@pytest.fixture
def _installed(tmp_path, monkeypatch):
    """A folder of packages as pip leaves it, with the ranker's in it."""
    folder = tmp_path / "site"
    info = folder / "careful_ranker-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "careful_ranker.py").write_text(MODULE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: careful-ranker\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[trsr.rankers]\ncareful = careful_ranker:CarefulRanker\n"
    )
    monkeypatch.syspath_prepend(folder)
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
