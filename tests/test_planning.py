"""Plans against what runs count, on made-up data and a tiny model."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from pipeline_data import SCRIPTED, SMALL, configured, write_data

from trsr.cli import planning as command
from trsr.config import load_config
from trsr.errors import ConfigError, DataError
from trsr.models.hf.item_vectors import ItemEncoder
from trsr.models.hf.soft_summary import SummaryEncoder
from trsr.pipeline import run, run_prepare
from trsr.pipeline.artifacts import planned_stages
from trsr.planning import long_run, plan
from trsr.planning.counting import Counts, Sampled
from trsr.planning.machines import GPUS, Gpu, Shape, Work, like, named
from trsr.progress import Silent
from trsr.settings import derive_seed
from trsr.storage.run_directory import RunDirectory

RANKED = [
    "train.validate_steps=0",
    "rank.rankers=['popular', 'llm_zero_shot', 'llm', 'blend']",
    "rank.blend.members=['popular', 'llm']",
]


def stage(found, name):
    return next(one for one in found.stages if one.stage == name)


@pytest.fixture(scope="module")
def planned(tmp_path_factory, tiny_model):
    """A plan, the run that followed it, and a plan after it."""
    folder = tmp_path_factory.mktemp("plan")
    write_data(folder)
    (folder / "small.toml").write_text(SMALL)
    config = load_config(
        folder / "small.toml", [f"run.folder={folder / 'run'}", f"model.name={tiny_model}", *RANKED]
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trsr.planning.bench.SECONDS", 0.2)
        before = plan(config, price=3.6)
        list(run(config))
        return config, before, plan(config)


def test_planned_tokens_are_those_that_the_run_counts(planned):
    config, before, _ = planned
    records = RunDirectory(config.run.folder).records()
    info = records["summarize"].info
    one = stage(before, "summarize")
    assert one.prompts - one.hits == info["asked"]
    # later prompts hold a model's texts: what stands in for them is as long in the mean
    assert one.tokens == pytest.approx(info["tokens"], rel=0.02)
    one = stage(before, "train")
    assert one.tokens == pytest.approx(records["train"].info["tokens"], rel=0.02)
    assert one.distinct == pytest.approx(records["train"].info["distinct_tokens"], rel=0.02)
    models = records["rank"].info["models"].values()
    one = stage(before, "rank")
    assert one.prompts == sum(model["asked"] + model["from_store"] for model in models)
    assert one.tokens == pytest.approx(sum(model["tokens"] for model in models), rel=0.02)
    assert all(one.error == 0 for one in before.stages)  # all users were read


def test_a_plan_is_of_all_that_a_table_needs(planned):
    _, before, _ = planned
    for name in ("summarize", "train", "rank"):
        one = stage(before, name)
        assert 0 < one.distinct < one.tokens
        assert one.seconds > 0
        assert one.operations > 0
        assert one.memory > 1e6
        assert one.dollars == pytest.approx(one.seconds / 1000)
    assert before.seconds == sum(one.seconds for one in before.stages)
    assert set(before.bench["operations_per_second"]) >= {"prefill", "training", "scoring_tuned"}


def test_what_is_stored_is_not_planned_again(planned):
    _, before, after = planned
    one = stage(after, "summarize")
    assert one.prompts == pytest.approx(stage(before, "summarize").prompts, rel=0.03)
    assert one.hits == one.prompts
    assert one.tokens == 0


@pytest.mark.parametrize("strategy", ["none", "soft"])
def test_what_rankers_of_vectors_and_their_encoders_read_is_planned(
    strategy, tmp_path, tiny_model, monkeypatch
):
    write_data(tmp_path)
    (tmp_path / "small.toml").write_text(SMALL)
    settings = [
        f"run.folder={tmp_path / 'run'}",
        f"model.name={tiny_model}",
        f"summarize.strategy={strategy}",
        "summarize.vectors=3",
        "prompts.item_vectors=2",
        "data.train_users=6",  # six steps
        "data.valid_cases=3",
        "data.test_cases=5",
        "rank.rankers=['llm_zero_shot', 'llm', 'llm_item_only', 'blend']",
        "rank.blend.members=['popular', 'llm']",
    ]
    config = load_config(tmp_path / "small.toml", settings)
    planned = plan(config, machine="H200")  # what is counted is the same on each
    read = [0]
    encode, advance = ItemEncoder.encode, SummaryEncoder.advance

    def encoded(self, texts, most):
        read[0] += sum(len(self.tokens(text)) + self.count for text in texts)
        return encode(self, texts, most)

    def advanced(self, before, blocks, numbers, most):
        starts = sum(state is not None for state in before)
        items = sum(block.shape[0] * block.shape[1] for block in blocks)
        read[0] += len(self.slots) * (len(blocks) + starts) + items
        return advance(self, before, blocks, numbers, most)

    monkeypatch.setattr(ItemEncoder, "encode", encoded)
    monkeypatch.setattr(SummaryEncoder, "advance", advanced)
    infos, encoders = {}, {}

    def made(config):
        for outcome in run(config):
            infos[outcome.stage], encoders[outcome.stage] = outcome.info, read[0]
            read[0] = 0

    def right(one):
        assert one.tokens == infos["train"]["tokens"]
        assert one.distinct == infos["train"]["distinct_tokens"]
        assert one.encoded == encoders["train"]

    made(config)
    right(stage(planned, "train"))
    one, models = stage(planned, "rank"), infos["rank"]["models"].values()
    assert one.tokens == sum(model["tokens"] for model in models)
    assert one.prompts == sum(model["asked"] + model["from_store"] for model in models)
    assert one.encoded == encoders["rank"]
    assert (one.encoded > 0) == (strategy == "soft")
    # the last training alone is made again
    start, folder = config.run.folder, tmp_path / "again"
    changed = [*settings, f"run.folder={folder}", f"train.start={start}", "rank.rankers=['llm']"]
    config = load_config(tmp_path / "small.toml", changed)
    again = stage(plan(config, machine="H200"), "train")
    made(config)
    right(again)
    assert 2 * again.tokens < stage(planned, "train").tokens


@pytest.fixture
def cheap(tmp_path):
    """Settings over made-up data, as a function of more settings."""

    def make(text=SCRIPTED, *settings, users=14):
        write_data(tmp_path, users=users)
        (tmp_path / "mine.toml").write_text(text)
        return load_config(tmp_path / "mine.toml", [f"run.folder={tmp_path / 'run'}", *settings])

    return make


def test_the_error_of_a_sample_covers_the_truth():
    """Of clusters of different sizes, 95 % of the estimates lie within the error that is said."""
    users = [
        Counts(tokens=100.0 * cases + derive_seed(1, "user", str(user)) % 400, cases=cases)
        for user in range(400)
        for cases in [1 + derive_seed(0, "cases", str(user)) % 4]
    ]
    truth = sum(one.tokens for one in users)
    cases = int(sum(one.cases for one in users))
    covered = 0
    for draw in range(200):
        order = sorted(range(400), key=lambda user, draw=draw: derive_seed(draw, str(user)))
        counts, error = Sampled(400, cases, [users[user] for user in order[:50]]).total()
        covered += abs(counts.tokens - truth) <= error
    assert 0.88 <= covered / 200 <= 0.99
    assert Sampled(400, cases, users).total() == (sum(users, Counts()), 0.0)


def test_a_sample_stands_for_all(cheap, monkeypatch):
    text = configured(rank={"rankers": ["llm_zero_shot"]})
    config = cheap(text, users=80)
    every = stage(plan(config), "rank")
    monkeypatch.setattr("trsr.planning.estimate.USERS", 20)
    some = stage(plan(config), "rank")
    assert some.error > 0
    assert some.tokens != every.tokens
    assert some.tokens == pytest.approx(every.tokens, abs=2 * some.error)
    assert some.prompts == pytest.approx(every.prompts, rel=0.1)


def test_an_endpoint_costs_what_its_tokens_cost(cheap):
    endpoint = {"backend": "openai", "name": "gpt", "base_url": "http://localhost:1/v1"}
    endpoint |= {"price_in": 2.0, "price_out": 8.0}
    text = configured(
        summarize={"strategy": "recurrent", "block_items": 3, "model": endpoint},
        rank={"rankers": ["popular", "llm_zero_shot"]},
    )
    found = plan(cheap(text))
    one = stage(found, "summarize")
    assert one.prompts > 0
    assert one.operations == 0
    assert one.seconds is None
    assert one.dollars == pytest.approx((2 * one.tokens + 8 * one.generated) / 1e6)
    assert any("gpt" in note and "not known" in note for note in found.notes)
    assert found.seconds is None


def test_a_named_machine_needs_no_weights(cheap):
    text = configured(
        model={"backend": "transformers", "name": "nobody/some-7b"},
        summarize={"strategy": "recurrent", "block_items": 3},
        train={"epochs": 2},
        rank={"rankers": ["llm"]},
    )
    config = cheap(text)
    slow, fast = plan(config, machine="a10g", price=1.0), plan(config, machine="H200")
    for name in ("summarize", "train", "rank"):
        assert stage(slow, name).seconds > stage(fast, name).seconds > 0
        assert stage(slow, name).tokens == stage(fast, name).tokens
        assert stage(slow, name).dollars == pytest.approx(stage(slow, name).seconds / 3600)
    assert stage(slow, "train").memory > 24e9
    assert any("A10G has 24" in note for note in slow.notes)
    here = plan(config)  # weights that are not here cannot be measured
    assert stage(here, "train").seconds is None
    assert any("--machine" in note for note in here.notes)


def test_encoders_are_planned_for_a_model_that_is_not_here(cheap):
    text = configured(
        model={"backend": "transformers", "name": "nobody/some-7b"},
        prompts={"item_vectors": 4},
        summarize={"strategy": "soft", "block_items": 2},
        train={"epochs": 1},
        rank={"rankers": ["llm"]},
    )
    found = plan(cheap(text), machine="H200")
    alone = plan(cheap(text, "summarize.strategy=none"), machine="H200")
    texts = plan(cheap(text, "summarize.strategy=none", "prompts.item_vectors=0"), machine="H200")
    assert stage(found, "summarize").seconds == 0
    for name in ("train", "rank"):
        assert stage(found, name).encoded > stage(alone, name).encoded >= 0
        assert stage(found, name).operations > stage(alone, name).operations
        assert any(f"{name}: beside its prompts, encoders" in note for note in found.notes)
    assert stage(alone, "rank").tokens < stage(texts, "rank").tokens
    assert stage(alone, "train").tokens > stage(texts, "train").tokens  # three trainings
    assert stage(alone, "train").seconds > stage(texts, "train").seconds
    assert stage(found, "train").memory > stage(alone, "train").memory > 14e9


def test_sizes_are_read_and_guessed(tiny_model):
    from trsr.models.hf.load import load_network, pick_device
    from trsr.models.settings import ModelSettings

    settings = ModelSettings(name=str(tiny_model), dtype="float32")
    network = load_network(settings, tiny_model, None, pick_device(settings))
    wide = [p.numel() for p in network.model.layers.parameters() if p.dim() == 2]
    assert Shape.read(tiny_model, 4.0).linear == sum(wide)
    guessed = Shape.guess("meta-llama/Llama-2-7b-hf", 2.0)
    assert guessed.linear == 7e9
    assert guessed.layers == pytest.approx(32, abs=2)
    assert guessed.hidden == pytest.approx(4096, rel=0.05)
    assert Shape.guess("some/model", 2.0) is None


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "lacks bench.machine"),
        ('{"bench": {"machine": "x"}}', "lacks bench.operations_per_second"),
        (
            json.dumps(
                {
                    "bench": {
                        "machine": "x",
                        "operations_per_second": {"prefill": -1},
                        "tokens_per_second": {},
                        "opening_seconds": {},
                        "peak_memory_bytes": {},
                    }
                }
            ),
            "bench.operations_per_second must hold numbers",
        ),
    ],
)
def test_a_file_without_speeds_is_refused(tmp_path, text, wrong):
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(ConfigError, match=wrong):
        like(tmp_path / "plan.json")


def test_an_unknown_machine_is_refused():
    with pytest.raises(ConfigError, match=r"H300 is not in the table.*A10G, L4, A100"):
        named("H300")
    assert named("h100").seconds(Work("training", 1, 0.35 * 989e12)) == pytest.approx(1)
    assert all(gpu.source for gpu in GPUS.values())


def test_data_that_is_missing_is_named(cheap):
    with pytest.raises(DataError, match=r"nowhere\.csv"):
        plan(cheap(SCRIPTED, "data.interactions=nowhere.csv"))


def test_what_was_measured_elsewhere_is_used(planned, tmp_path):
    config, before, _ = planned
    (tmp_path / "plan.json").write_text(json.dumps(before.to_json()))
    twice = json.loads(json.dumps(before.to_json()))
    speeds = twice["bench"]["operations_per_second"]
    twice["bench"]["operations_per_second"] = {key: 2 * one for key, one in speeds.items()}
    (tmp_path / "twice.json").write_text(json.dumps(twice))
    one = stage(plan(config, measured=tmp_path / "plan.json"), "rank")
    two = stage(plan(config, measured=tmp_path / "twice.json"), "rank")
    assert one.tokens == two.tokens
    assert two.seconds < one.seconds


def test_a_run_of_hours_says_so_and_a_small_one_does_not(planned, cheap, monkeypatch):
    config, _, _ = planned
    assert long_run(config) == ""  # all is made
    text = configured(
        model={"backend": "transformers", "name": "nobody/some-7b"},
        rank={"rankers": ["llm_zero_shot"]},
    )
    config = cheap(text, users=40)
    run_prepare(config)
    slow = Gpu(1e11, 20e9, 16e9, "")
    monkeypatch.setattr("trsr.planning.estimate.own_machine", lambda: slow)
    monkeypatch.setattr("trsr.planning.estimate.gpu", lambda: "")
    assert "tokens, which may take about" in long_run(config)
    monkeypatch.setattr("trsr.planning.estimate.own_machine", lambda: replace(slow, peak=1e15))
    assert long_run(config) == ""


def test_a_plan_stands_beside_the_run_in_its_report(cheap, tmp_path):
    config = cheap(SCRIPTED)
    options = [tmp_path / "mine.toml", [f"run.folder={config.run.folder}"], "", None, None]
    made = command.planned(*options, Silent())
    header, rows = command.rows(made)
    assert [row[0] for row in rows] == [*(one.stage for one in made.stages), "all"]
    assert all(len(row) == len(header) for row in rows)
    kept = (config.run.folder / "plan.json").read_text()
    list(run(config))
    page = (config.run.folder / "report.html").read_text("utf-8")
    assert '<th scope="col">Planned</th>' in page
    command.planned(*options, Silent())  # what was planned before the run stays
    assert (config.run.folder / "plan.json").read_text() == kept
    other = load_config(tmp_path / "mine.toml", [f"run.folder={config.run.folder}", "run.seed=9"])
    assert planned_stages(config)
    assert not planned_stages(other)
    (config.run.folder / "plan.json").write_text('{"settings": 1, "stages": []}')
    assert not planned_stages(config)


def test_one_machine_is_named_in_one_way(cheap, tmp_path):
    cheap()
    with pytest.raises(ConfigError, match="not both"):
        command.planned(tmp_path / "mine.toml", [], "H100", tmp_path / "x.json", None, Silent())
