"""Settings: read whole, checked whole, every mistake told."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from trsr.config import load_config, read_toml, recipes
from trsr.errors import ConfigError


def write(tmp_path, text, name="mine.toml"):
    path = tmp_path / name
    path.write_text(text)
    return path


GOOD = '[data]\ninteractions = "clicks.csv"\nitems = "/abs/items.csv"\n'


def test_paths_of_a_file_are_relative_to_it_and_of_the_command_line_to_the_folder(tmp_path):
    config = load_config(write(tmp_path, GOOD), ["data.items=here.csv"])
    assert config.data.interactions == tmp_path / "clicks.csv"
    assert config.data.items == Path.cwd() / "here.csv"
    assert config.run.folder == Path.cwd() / "runs" / "mine"
    assert config.run.cache == Path.cwd() / "runs" / "responses.sqlite"


def test_overrides_are_toml_values_or_plain_text(tmp_path):
    settings = [
        "summarize.strategy=recurrent",
        "train.epochs=2",
        "rank.rankers=['random']",
        "summarize.sampling.max_tokens=12",
        "data.min_rating=3.5",
    ]
    config = load_config(write(tmp_path, GOOD), settings)
    assert config.summarize.strategy == "recurrent"
    assert config.train.epochs == 2
    assert config.rank.rankers == ("random",)
    assert config.summarize.sampling.max_tokens == 12
    assert config.data.min_rating == 3.5


def test_all_mistakes_are_told_at_once_with_near_names(tmp_path):
    text = GOOD + "splitt = 'rows'\n[summarise]\nx = 1\n[train]\nepochs = 'two'\nlearnig_rate = 1\n"
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, text))
    message = str(caught.value)
    assert "4 mistakes" in message
    assert "data.splitt: unknown setting: did you mean split?" in message
    assert "summarise: unknown setting: did you mean summarize or tune_summarizer?" in message
    assert "train.learnig_rate: unknown setting: did you mean learning_rate?" in message
    assert "train.epochs:" in message
    assert "'two'" in message


def test_a_setting_of_a_ranker_that_has_none_is_refused_in_a_whole_sentence(tmp_path):
    with pytest.raises(ConfigError, match=r"rank\.title\.scores: unknown setting: there are none"):
        load_config(write(tmp_path, GOOD), ["rank.title.scores=total"])


def test_a_list_of_wrong_values_alone_is_one_mistake(tmp_path):
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, GOOD), ["rank.sequential.dropout=[1.0]"])
    assert "one mistake" in str(caught.value)
    assert "rank.sequential.dropout.0: input should be less than 1" in str(caught.value)
    with pytest.raises(
        ConfigError, match="one mistake.*\n  rank.blend.members: too few values: give at least 1 "
    ):
        load_config(write(tmp_path, GOOD), ["rank.blend.members=[]"])


def test_a_name_in_the_place_of_a_list_is_shown_as_one(tmp_path):
    for value, shown in (("popular", '["popular"]'), ("3", '["…"]')):
        with pytest.raises(ConfigError) as caught:
            load_config(write(tmp_path, GOOD), [f"rank.rankers={value}"])
        assert f"  rank.rankers: write a list, such as {shown} (given: " in str(caught.value)


def test_an_unknown_setting_in_a_table_of_ones_own_name_is_told(tmp_path):
    settings = ["rank.external.mine.fles=['a.trec']", "rank.external.mine.files=['b.trec']"]
    with pytest.raises(
        ConfigError, match=r"external\.mine\.fles: unknown setting: did you mean files"
    ):
        load_config(write(tmp_path, GOOD), settings)


def test_a_wrong_name_is_told_beside_unknown_settings_and_wrong_values(tmp_path):
    settings = ["train.epoch=2", "rank.rankers=['lm']", "data.max_history=-3", "data.reader=csv"]
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, GOOD), settings)
    message = str(caught.value)
    assert "4 mistakes" in message
    assert "train.epoch: unknown setting" in message
    assert "rank.rankers: there is no ranker 'lm'" in message
    assert "data.max_history:" in message
    assert "data.reader: there is no reader 'csv'" in message


def test_parts_that_do_not_exist_and_contradictions_are_told_at_once(tmp_path):
    settings = [
        "summarize.strategy=recurent",
        "rank.rankers=['lm']",
        "evaluate.metrics=['recal@5']",
        "prompts.domain=book",
        "data.reader=csv",
    ]
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, GOOD), settings)
    message = str(caught.value)
    for part in ("recurrent", "llm", "recal@5", "book", "table"):
        assert part in message
    with pytest.raises(ConfigError, match=r"train\.epochs is 0"):
        load_config(write(tmp_path, GOOD), ["train.epochs=0"])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["model.backend=openai"], r"openai ranks with scorer = 'endpoint' alone"),
        (["model.scorer=endpoint"], r"model\.base_url: scorer = endpoint needs the address"),
        (
            ["model.scorer=endpoint", "model.backend=openai", "model.base_url=http://a/v1"],
            r"openai cannot be trained here; use llm_zero_shot, or backend = 'transformers'",
        ),
        (
            ["model.scorer=endpoint", "model.base_url=http://a/v1", "prompts.item_vectors=2"],
            r"prompts\.item_vectors: an endpoint that scores reads text alone",
        ),
    ],
)
def test_what_an_endpoint_cannot_do_is_said(tmp_path, settings, said):
    with pytest.raises(ConfigError, match=said):
        load_config(write(tmp_path, GOOD), [*settings, 'rank.rankers=["llm"]'])


def test_an_endpoint_that_scores_changes_no_key_of_training_or_texts(tmp_path):
    before = load_config(write(tmp_path, GOOD))
    served = ["model.scorer=endpoint", "model.base_url=http://a/v1", "model.extra.model=b"]
    after = load_config(write(tmp_path, GOOD), served)
    assert after.model.meaning() == before.model.meaning()
    assert after.summarizer.scorer == "torch"


@pytest.mark.parametrize("bad", ["epochs=2", "train.epochs", "=3", "train.=1", ".x=1"])
def test_a_malformed_override_is_named(tmp_path, bad):
    with pytest.raises(ConfigError, match="section.key=value"):
        load_config(write(tmp_path, GOOD), [bad])


def test_a_table_is_not_overridden_by_a_value(tmp_path):
    with pytest.raises(ConfigError, match="sampling is a table"):
        load_config(
            write(tmp_path, GOOD + "[summarize.sampling]\ntop_p = 0.9\n"), ["summarize.sampling=3"]
        )


def test_a_file_that_is_not_toml_or_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match="not TOML.*line 1"):
        load_config(write(tmp_path, "[data\n"))
    with pytest.raises(ConfigError, match="did you mean demo"):
        load_config("demoo")
    bad = tmp_path / "latin.toml"
    bad.write_bytes(b"# \xe9\n")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_config(bad)


def test_the_resolved_settings_give_the_same_run(tmp_path):
    config = load_config(write(tmp_path, GOOD), ["data.min_rating=4", "train.epochs=3"])
    again = write(tmp_path, config.to_toml(), "again.toml")
    assert load_config(again) == config


@pytest.mark.parametrize("name", sorted(recipes()))
def test_every_recipe_is_right_and_opens_with_its_command(name, monkeypatch):
    from trsr.experiments.sweep import read_plan

    monkeypatch.chdir(os.sep)
    several = "base" in read_toml(recipes()[name])
    if several:
        assert read_plan(name).grid()
    else:
        load_config(name)
    opening = recipes()[name].read_text("utf-8").splitlines()[0]
    assert opening.startswith("# ")
    assert f"trsr {'sweep' if several else 'run'} recipes/{name}.toml" in opening


def test_a_recipe_reads_the_data_of_the_current_folder_or_of_its_own_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    real = Path(__file__).parents[1]
    data = load_config("industrial").data
    assert data.interactions == real.parent / "shared/data/industrial/sequences.jsonl"
    assert load_config("own_data").data.interactions == real / "recipes" / "clicks.csv"
    (tmp_path / "clicks.csv").touch()
    assert load_config("own_data").data.interactions == tmp_path / "clicks.csv"


OURS = sorted((Path(__file__).parents[1] / "benchmarks" / "recipes").glob("*.toml"))


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.stem)
def test_the_recipes_of_our_own_tables_are_right_and_open_with_their_command(path, monkeypatch):
    from trsr.experiments.sweep import read_plan

    monkeypatch.chdir(os.sep)
    command = path.read_text("utf-8").splitlines()[0].removeprefix("# trsr ")
    assert command.endswith(f" benchmarks/recipes/{path.name}")
    if command.startswith("run"):
        load_config(path)
        return
    runs = read_plan(path).grid()
    assert len({run.config.run.folder for run in runs}) == len(runs) > 1
    assert len({run.config.run.cache for run in runs}) == 1
    with pytest.raises(ConfigError, match="this is a sweep, not one run"):
        load_config(path)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("train.learning_rate=inf", "train.learning_rate: input should be a finite number"),
        ("model.timeout=inf", "model.timeout: input should be a finite number"),
        ("data.min_rating=-nan", "data.min_rating: input should be a finite number"),
        ("run.address=h:1", "run.address, worker_cpus and worker_gpus are read by run.engine"),
        ("run.address=ray://h:10001", "ray:// is Ray's client, .* write HOST:PORT"),
        ("summarize.model.extra={messages=[]}", "would replace every prompt"),
        ("summarize.model.extra={extra_body={api_key='x'}}", "holds api_key"),
        ("run.folder=S3://bucket/x", "give a folder, or an address s3://"),
        ("data.negatives=true", "data.negatives: input should be a number, not true or false"),
        ("data.min_rating=false", "data.min_rating: input should be a number, not true or false"),
        ("rank.sequential.dropout=[true]", "dropout: input should be a number, not true"),
        ("model.extra={a=[{b=nan}]}", "model.extra: input should be a finite number"),
        ("rank.sequential.hidden=2147483648", "rank.sequential.hidden: .* at most 2147483647"),
        ("data.negatives=99999999999999999999", "data.negatives: input should be at most"),
        ("compress.recover_steps=1000000", "recover_steps: input should be less than or equal to"),
        ("run.seed=9223372036854775808", "run.seed: input should be at most 9223372036854775807"),
        (f"data.negatives={'9' * 5000}", r"data.negatives: .*exceeded maximum size \(given: '9+…"),
        ("data.separator=\udcff", "data.separator: input should be text in UTF-8"),
        ("data.items=", r"data\.items is empty: name a path"),
        ('run.folder=""', r"run\.folder is empty: name a path"),
        ("data.items=~nobody-here/x.csv", "~nobody-here/x.csv: there is no such home"),
        ("model.name=~nobody-here/x", "~nobody-here/x: there is no such home"),
        ('run.folder="a\\u0000b"', "has control characters in it"),
        ("run.seed=5\ndata.negatives=1", "has a line end or control character in it"),
        ("run.folder=a\rb", "has a line end or control character in it"),
    ],
)
def test_numbers_and_paths_that_nothing_can_use_are_refused(tmp_path, setting, said):
    with pytest.raises(ConfigError, match=said):
        load_config(write(tmp_path, GOOD), [setting])


def test_what_looks_alike_and_is_right_is_taken(tmp_path):
    settings = ["run.seed=9223372036854775807", "data.negatives=2147483647", "data.separator=\t"]
    config = load_config(write(tmp_path, GOOD), settings)
    assert (config.run.seed, config.data.negatives) == (2**63 - 1, 2**31 - 1)
    assert config.data.separator == "\t"
    (tmp_path / "mark.toml").write_text(f"\ufeff{GOOD}", "utf-8")
    assert load_config(tmp_path / "mark.toml").data == load_config(write(tmp_path, GOOD)).data


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[data]\nitems = "C:\\data\\x.csv"\n', "write a Windows path in single quotes, 'C:"),
        ('[data]\nitems = "C:\\Users\\x.csv"\n', "write a Windows path in single quotes, 'C:"),
        ('[data]\nitems = "C:\\temp\\new.csv"\n', r"'C:\\temp\\new.csv' has control .* single"),
        ("a = " + "[" * 100_000, "not TOML: nested too deep"),
        ("a = " + "{a=" * 150 + "1" + "}" * 150, "not TOML: nested too deep"),
        ("a" + ".a" * 100_000 + " = 1", "not TOML: nested too deep"),
        ("[" + "a." * 500 + "a]\nx = 1", "not TOML: nested too deep"),
        ("run.seed = " + "9" * 100_000, "not TOML: .*digits"),
    ],
)
@pytest.mark.timeout(20)
def test_toml_that_cannot_be_read_says_why(tmp_path, text, said):
    with pytest.raises(ConfigError, match=said):
        load_config(write(tmp_path, text))


@pytest.mark.parametrize(
    ("rank", "place"),
    [
        (["rank.rankers=['llm']"], r"rank\.rankers: llm needs"),
        (
            ["rank.rankers=['blend']", "rank.blend.members=['llm']"],
            r"rank\.blend\.members: llm needs",
        ),
        (
            ["rank.rankers=['popular']", "rank.retriever=distilled"],
            r"rank\.retriever: distilled needs",
        ),
    ],
)
def test_a_ranker_that_needs_training_is_named_where_it_stands(tmp_path, rank, place) -> None:
    with pytest.raises(ConfigError, match=place):
        load_config(write(tmp_path, GOOD), ["train.epochs=0", *rank])
