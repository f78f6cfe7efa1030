"""`trsr compress` and the method od_llm: smaller models of a trained run, used and measured."""

from __future__ import annotations

import importlib.util
import json
import shutil
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from trsr.cli.app import app
from trsr.config import load_config
from trsr.errors import ConfigError, ModelError, StaleRunError, StoreError
from trsr.export import export
from trsr.export.compressing import Form, _peak_alone, compress_run
from trsr.models import ModelSettings, open_model
from trsr.pipeline import run as run_all
from trsr.progress import Silent
from trsr.recommender import Recommender
from trsr.types import Message, Prompt

pytestmark = pytest.mark.usefixtures("one_thread")
FAST = ["compress.cases=3", "compress.recover_steps=3", "model.scorer=torch"]


def copied(trained_run, folder):
    """A copy of the trained run, with its tiny model two folders above."""
    shutil.copytree(trained_run, folder / "runs" / "mine")
    (folder / "tiny").symlink_to(trained_run.parent.parent / "tiny")
    return folder / "runs" / "mine"


@pytest.fixture
def run(tmp_path, trained_run):
    return copied(trained_run, tmp_path)


@pytest.fixture(scope="module")
def no_processes():
    """Peak memory is measured in processes of their own, which takes seconds each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trsr.export.compressing._peak_alone", lambda *_: 10**8)
        yield


@pytest.fixture(scope="module")
def small(tmp_path_factory, trained_run, one_thread, no_processes):
    """A copy of the run and its model at the usual ratio; tests change neither."""
    folder = tmp_path_factory.mktemp("small")
    run = copied(trained_run, folder)
    folders, curve = compress_run(run, folder / "out", settings=FAST)
    return SimpleNamespace(run=run, out=folder / "out", folders=folders, curve=curve)


def test_a_model_is_written_measured_and_used(run, tmp_path, no_processes):
    done = CliRunner().invoke(app, ["compress", str(run), "--ratio", "0.6", *FAST])
    assert done.exit_code == 0, done.output
    folder = tmp_path / "runs" / "mine-compressed"
    assert f"model.name={folder}" in done.stdout
    assert "ratio 0.6" in done.stdout
    found = json.loads((folder / "compress.json").read_text())
    assert found["settings"]["ratio"] == 0.6
    assert found["parameters"]["after"] < found["parameters"]["before"]
    assert found["tokens"] > 64
    assert len(found["lost"]) == found["layers"] == 14
    assert len(found["recovery_losses"]) == 3
    page = (folder / "compress.md").read_text()
    assert str(tmp_path) not in page
    assert "ratio 0.6" in page

    compressed = load_config(run / "config.toml", [f"model.name={folder}"])
    dataset = Recommender.load(run, "popular").dataset
    queries = list(dataset.cases("test").queries())
    whole = Recommender(compressed, dataset, None, "llm_zero_shot")
    lists = list(whole.rank(whole.summarized(queries, Silent())))
    assert len(lists) == len(queries)


def test_peak_memory_is_that_of_a_process_alone(tiny_model):
    prompts = [Prompt((Message("user", "quiet films"),))]
    form = Form("llm", ModelSettings(name=str(tiny_model), device="cpu"))
    assert _peak_alone(form, prompts, ["Yes", "No"]) > 10**8
    assert "opened" not in vars(form)


def test_the_same_call_makes_nothing_anew_and_another_one_refuses(small):
    assert small.folders == [small.out]
    assert list(small.curve.costs) == ["llm", "ratio 0.5"]
    assert small.curve.agreement["llm"] == 1
    assert small.curve.costs["ratio 0.5"].size < small.curve.costs["llm"].size
    written = (small.out / "low_rank.safetensors").stat()
    compress_run(small.run, small.out, settings=FAST)
    assert (small.out / "low_rank.safetensors").stat() == written
    with pytest.raises(StaleRunError, match=r"compress\.align: 'outputs' → 'none'"):
        compress_run(small.run, small.out, settings=[*FAST, "compress.align=none"])
    with pytest.raises(StoreError, match="is not empty"):
        compress_run(small.run, small.run.parent, settings=FAST)


class KilledError(BaseException):
    pass


class KilledAt:
    """Progress that ends the process at a step of the recovery."""

    unit = ""
    left = 2

    def begin(self, total, unit):
        self.unit = unit

    def advance(self, steps=1, note=""):
        self.left -= self.unit == "recovery steps"
        if not self.left:
            raise KilledError


def test_a_stopped_call_goes_on_to_the_same_bits(small, tmp_path):
    with pytest.raises(KilledError):
        compress_run(small.run, tmp_path / "stopped", settings=FAST, progress=KilledAt())
    compress_run(small.run, tmp_path / "stopped", settings=FAST)
    one, other = (
        (folder / "low_rank.safetensors").read_bytes()
        for folder in (small.out, tmp_path / "stopped")
    )
    assert one == other


@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="needs openvino")
def test_several_ratios_are_a_curve_beside_fewer_bits(small, tmp_path):
    folders, curve = compress_run(
        small.run,
        tmp_path / "out",
        ratios=[0.4, 0.8],
        settings=[*FAST[:2], "model.scorer=openvino"],
    )
    assert [folder.name for folder in folders] == ["0.8", "0.4"]
    assert list(curve.costs) == ["llm", "llm 8bit", "llm 4bit", "ratio 0.8", "ratio 0.4"]
    sizes = [cost.size for cost in curve.costs.values()]
    assert sizes[0] > sizes[1] > sizes[2]
    assert sizes[0] > sizes[3] > sizes[4]
    assert curve.agreement["llm 8bit"] > 0.9
    drawn = (tmp_path / "out" / "compress.svg").read_text()
    assert drawn.count("<circle") == 5
    assert "ratio 0.4: 0 MB, AUC" in drawn


def test_what_cannot_be_compressed_is_refused(small, tmp_path):
    with pytest.raises(ConfigError, match=r"model\.quantize"):
        compress_run(small.run, tmp_path / "a", settings=["model.quantize=8bit"])
    with pytest.raises(ConfigError, match=r"compress\.ratio"):
        compress_run(small.run, tmp_path / "b", ratios=[1.0])
    with pytest.raises(StoreError, match="not a run directory"):
        compress_run(tmp_path, tmp_path / "c")
    assert not (tmp_path / "a").exists()
    with pytest.raises(ConfigError, match="is compressed already"):
        compress_run(small.run, tmp_path / "d", settings=[f"model.name={small.out}"])
    with pytest.raises(ConfigError, match="openvino alone"):
        open_model(ModelSettings(name=str(small.out), quantize="8bit", device="cpu"))


def test_a_run_that_is_not_trained_yet_is_refused(run, tmp_path):
    """The model as it came is no ranker of such a run, and would pass for the tuned one."""
    with pytest.raises(StoreError, match=r"elsewhere: not a run directory"):
        compress_run(run, tmp_path / "a", settings=[f"run.folder={tmp_path / 'elsewhere'}"])
    shutil.rmtree(run / "adapter")
    with pytest.raises(StaleRunError, match=r"compress needs train \(gone or damaged: adapter\)"):
        compress_run(run, tmp_path / "b", settings=FAST)
    (run / "manifest.json").unlink()
    shutil.rmtree(run / ".work", ignore_errors=True)
    with pytest.raises(StaleRunError, match=r"compress needs train \(not made yet\)"):
        compress_run(run, tmp_path / "b", settings=FAST)
    with pytest.raises(ModelError, match="no trained adapter yet, and the model as it came is not"):
        export(run, "merged", tmp_path / "c")
    assert not {"a", "b", "c"} & {path.name for path in tmp_path.iterdir()}


def test_the_method_ranks_by_both_forms(run, tmp_path):
    settings = ["method=od_llm", 'rank.rankers=["llm","llm_compressed"]', *FAST[:2]]
    config = load_config(run / "config.toml", settings)
    outcomes = {one.stage: one for one in run_all(config)}
    assert not outcomes["train"].made
    assert outcomes["compress"].made
    assert not {one.stage: one for one in run_all(config)}["compress"].made
    report = json.loads((run / "report.json").read_text())
    assert set(report["rankers"]) == {"llm", "llm_compressed"}
    shutil.copytree(run, tmp_path / "moved")
    moved = Recommender.load(tmp_path / "moved", "llm_compressed")
    moved.save(tmp_path / "saved")
    users = ["u0", "u1"]
    shutil.rmtree(run / "compressed")
    saved = Recommender.load(tmp_path / "saved", "llm_compressed")
    assert saved.recommend(users, 3).equals(moved.recommend(users, 3))
    with pytest.raises(ConfigError, match="llm_trsr compresses no model; leave out llm_compressed"):
        load_config(tmp_path / "moved" / "config.toml", ["method=llm_trsr"])


def test_a_compressed_model_is_exported(run, small, tmp_path):
    """As factors where the format holds any layers, multiplied where it knows whole ones alone."""
    config = run / "config.toml"
    text = config.read_text().replace('name = "./tiny"', f'name = "{small.out}"')
    text = text.replace('"llm"', '"llm_zero_shot"')
    shutil.rmtree(run / "adapter")
    config.write_text(text)
    for to in ("merged", *(("openvino",) if importlib.util.find_spec("openvino") else ())):
        found = export(run, to, tmp_path / to, queries=1)
        assert min(found.correlations) > 0.99, found.said


def test_an_adapter_of_another_model_is_refused(run, tmp_path):
    other = run / "adapter" / "adapter_config.json"
    value = json.loads(other.read_text())
    other.write_text(json.dumps(value | {"target_modules": ["q_proj"]}))
    with pytest.raises((ModelError, StaleRunError)):
        compress_run(run, tmp_path / "out", settings=FAST)
