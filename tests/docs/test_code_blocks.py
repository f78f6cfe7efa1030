"""Each code block of README.md and docs/ is run, or read by what would run it.

Settings and the lines of the command line are held to the real ones; Python is executed on a small
run with a tiny model, which stands for `runs/demo` and `runs/clicks`.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import sys
import tomllib
import types
import typing
from dataclasses import dataclass
from pathlib import Path

import pytest
import tomli_w
import typer.main
from pipeline_data import write_data
from pydantic import BaseModel
from typer.testing import CliRunner

from trsr import fitting
from trsr.cli.app import app
from trsr.config import Config, check_config, load_config
from trsr.config.start import first_settings
from trsr.data.settings import READERS
from trsr.experiments.sweep.plan import read_plan
from trsr.methods import METHODS
from trsr.models.settings import BACKENDS
from trsr.prompts import parse_domain
from trsr.rankers.settings import RANKERS, ranker_class
from trsr.summarize.settings import STRATEGIES

ROOT = Path(__file__).parents[2]
WRITTEN = {"cli.md", "configuration.md", "performance.md"}
"""Pages that commands write."""
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LANGUAGES = {"bash", "python", "toml", "text"}
RUN = {"init", "check", "show", "recommend", "ls"}
"""Commands of the tutorial that take no time on its data."""

TINY = """
[data]
interactions = "clicks.csv"
items = "products.jsonl"
min_history = 4
negatives = 4
train_users = 2
test_cases = 0
valid_cases = 2

[model]
name = "./tiny"
device = "cpu"

[summarize]
strategy = "none"

[rank]
rankers = ["popular", "llm", "blend"]
blend.members = ["popular", "llm"]
"""


@dataclass(frozen=True)
class Block:
    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    def commands(self) -> list[list[str]]:
        """The lines of a shell block, each as its words, without comments."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [words for line in lines if (words := shlex.split(line, comments=True))]


def blocks_of(path: Path) -> list[Block]:
    found = re.finditer(r"^```(\w*)\n(.*?)^```$", path.read_text("utf-8"), re.M | re.S)
    text = path.read_text("utf-8")
    return [Block(path.name, text.count("\n", 0, m.start()) + 1, m[1], m[2]) for m in found]


BLOCKS = [block for page in PAGES if page.name not in WRITTEN for block in blocks_of(page)]


def of(language: str) -> list[Block]:
    return [block for block in BLOCKS if block.language == language]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory, tiny_model, one_thread):
    """A folder with the tutorial's files and finished runs."""
    from trsr.pipeline import run_prepare, run_rank, run_summarize, run_train

    folder = tmp_path_factory.mktemp("workplace")
    write_data(folder, users=24, items=60)
    log = folder / "clicks.csv"
    asked = log.read_text("utf-8").replace("\nu0,", "\n1,").replace("\nu9,", "\n2,")
    log.write_text(asked, "utf-8")  # README asks for 1 and 2
    (folder / "more").mkdir()
    write_data(folder / "more", users=24, items=60)
    numbered = (folder / "more" / "clicks.csv").read_text("utf-8").replace("\nu", "\n")
    (folder / "interactions.csv").write_text(numbered, "utf-8")
    (folder / "more" / "products.jsonl").rename(folder / "items.jsonl")
    write_fetched(folder)
    (folder / "tiny").symlink_to(tiny_model)
    (folder / "demo.toml").write_text(TINY, "utf-8")
    before = Path.cwd()
    os.chdir(folder)
    try:
        config = load_config("demo.toml")
        for stage in (run_prepare, run_summarize, run_train, run_rank):
            stage(config)
        (folder / "runs" / "clicks").symlink_to(folder / "runs" / "demo")
        yield folder
    finally:
        os.chdir(before)


def write_fetched(folder):
    """Made-up data where `trsr get ml-100k` would put what it fetches: atomic files of RecBole."""
    fetched = folder / "cache" / "ml-100k"
    fetched.mkdir(parents=True)
    rows = (folder / "interactions.csv").read_text("utf-8").splitlines()[1:]
    lines = [
        "user_id:token\titem_id:token\ttimestamp:float",
        *(row.replace(",", "\t") for row in rows),
    ]
    (fetched / "ml-100k.inter").write_text("\n".join(lines) + "\n", "utf-8")
    items = map(json.loads, (folder / "items.jsonl").read_text("utf-8").splitlines())
    lines = [
        "item_id:token\tmovie_title:token_seq",
        *(f"{one['sku']}\t{one['title']}" for one in items),
    ]
    (fetched / "ml-100k.item").write_text("\n".join(lines) + "\n", "utf-8")


def test_every_block_names_its_language():
    assert {str(block) for block in BLOCKS if block.language not in LANGUAGES} == set()
    assert all(of(language) for language in LANGUAGES)


@pytest.mark.parametrize("block", of("python"), ids=str)
def test_python_runs(block, workplace, capsys, monkeypatch):
    monkeypatch.setattr(fitting, "first_settings", small_settings)
    monkeypatch.setenv("TRSR_CACHE", str(workplace / "cache"))
    module = types.ModuleType("block")
    monkeypatch.setitem(sys.modules, "block", module)  # a class looks up its annotations there
    names = vars(module)
    exec(compile(block.text, str(block), "exec"), names)  # noqa: S102
    if "print(" in block.text:
        assert capsys.readouterr().out.strip()
    for part in list(names.values()):
        if isinstance(part, type) and part.__module__ == "block" and hasattr(part, "score"):
            check_ranker(part, workplace / "runs" / "demo")


def small_settings(*given) -> str:
    """`trsr.fit`'s own settings, with a tiny model and without embeddings."""
    values = tomllib.loads(first_settings(*given))
    tiny = {"name": str(Path("tiny").absolute()), "device": "cpu"}
    values["model"] |= tiny
    values["summarize"] |= {"model": tiny, "sampling": {"max_tokens": 4}}
    values["train"]["upper_layers"] = 0
    values["rank"] |= {
        "rankers": ["popular", "item_knn", "sasrec", "llm", "blend"],
        "blend": {"members": ["sasrec", "item_knn", "llm"]},
        "sequential": {"max_epochs": 1},
    }
    return tomli_w.dumps(values)


def check_ranker(ranker, run):
    """A ranker that a page shows fits a run's data and scores its queries."""
    from fitting import given

    from trsr.data import Dataset
    from trsr.rankers import FitData, FitOptions, batched, scored

    data = Dataset.load(run)
    made = ranker(resources=given(data.catalog))
    made.fit(FitData(data.catalog, data.interactions), FitOptions())
    queries = [case.query for case in data.cases("test")]
    for batch in batched(queries, data.catalog, len(queries)):
        values = scored(made, batch, "shown").scores
        assert values.shape[0] == len(queries)
        assert len(set(values.ravel().tolist())) > 1


@pytest.mark.parametrize("block", of("toml"), ids=str)
def test_toml_is_read(block, tmp_path):
    values = tomllib.loads(block.text)
    if "project" in values:  # another package's
        groups = {table.group for table in (READERS, STRATEGIES, BACKENDS, RANKERS, METHODS)}
        assert set(values["project"]["entry-points"]) == groups
    elif "rank" in values and "yes" in values:
        parse_domain(block.text, str(block))
    elif {"base", "search", "grid", "variants"} & set(values):
        sweep = tmp_path / "sweep.toml"
        base = "" if "base" in values else 'base = "industrial"\n'
        sweep.write_text(base + block.text, "utf-8")
        for name in ("industrial.toml", "clicks.toml"):
            (tmp_path / name).write_text((ROOT / "recipes/industrial.toml").read_text("utf-8"))
        read_plan(sweep)
    else:
        check_config({"data": {"interactions": "a.csv", "items": "b.csv"}} | values, str(block))


@pytest.mark.parametrize("block", of("bash"), ids=str)
def test_commands_are_known(block, tmp_path):
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.M)
    for words in block.commands():
        if words[0] == "trsr":
            check_trsr(words, tmp_path)
        elif words[0] == "make":
            assert words[1] in targets
        elif words[:2] == ["python", "-m"]:
            assert importlib.util.find_spec(words[2]), words
        else:
            assert words[0] in {"source", "pip"}, f"{block}: {words}"


def check_trsr(words, tmp_path):
    """The command and its options are parsed; settings on its line are read."""
    group = typer.main.get_command(app)
    command = group.commands[words[1]]
    context = command.make_context(words[1], list(words[2:]))
    settings = context.params.get("settings")
    if settings:
        (tmp_path / "mine.toml").write_text('[data]\ninteractions = "a"\nitems = "b"\n', "utf-8")
        load_config(tmp_path / "mine.toml", settings)


def test_unknown_words_of_the_command_line_fail(tmp_path):
    with pytest.raises(KeyError):
        check_trsr(["trsr", "summarise", "mine.toml"], tmp_path)
    with pytest.raises(Exception, match="No such option: --basline"):
        check_trsr(["trsr", "compare", "a", "b", "--basline", "a"], tmp_path)


def test_the_tutorials_cheap_commands_run(workplace):
    done = []
    for words in [words for block in of("bash") for words in block.commands()]:
        if words[:1] == ["trsr"] and words[1] in RUN and "runs/" in " ".join(words[2:3]):
            files = [word for word in words if word.endswith(".jsonl")]
            for name in files:
                lines = (
                    '{"user": "new", "items": ["p1", "p7"]}\n'
                    if name == "new.jsonl"
                    else "p3\np4\n"
                )
                (workplace / name).write_text(lines, "utf-8")
            outcome = CliRunner().invoke(app, words[1:])
            assert outcome.exit_code == 0, (words, outcome.output, outcome.exception)
            done.append(words[1])
    assert {"show", "recommend"} <= set(done)


def inline(pattern: str) -> set[tuple[str, str]]:
    """(page, code) of all inline code of this form, generated pages apart."""
    pages = [page for page in PAGES if page.name not in WRITTEN]
    return {
        (page.name, found)
        for page in pages
        for found in re.findall(rf"`({pattern})`", page.read_text("utf-8"))
    }


def test_settings_in_the_text_exist():
    tables = "run|data|columns|prompts|model|summarize|train|rank|evaluate|tune_summarizer"
    found = inline(rf"(?:{tables})\.[a-z_0-9.]+")
    assert len({key for _, key in found}) > 20
    known = setting_names(Config, "")
    known |= {name.removeprefix("data.") for name in known if name.startswith("data.columns.")}
    known |= {
        f"rank.{name}.{key}"
        for name in RANKERS.names()
        for key in ranker_class(name).config_class().model_fields
    }
    assert {(page, key) for page, key in found if key not in known} == set()
    strategies = inline(r'summarize\.strategy ?= ?"?\w+"?')
    assert {re.findall(r"\w+", text)[-1] for _, text in strategies} <= set(STRATEGIES.names())


def setting_names(model, before):
    names = set()
    for name, field in model.model_fields.items():
        names.add(before + name)
        inner = field.annotation
        for one in typing.get_args(inner) or (inner,):
            if isinstance(one, type) and issubclass(one, BaseModel):
                names |= setting_names(one, f"{before}{name}.")
    return names


def test_files_in_the_text_exist():
    roots = (ROOT, ROOT / "src" / "trsr", ROOT / "docs")
    found = inline(r"[a-z_]+/[a-z_/]*(?:[a-z_0-9]+\.(?:py|toml|md|parquet))?")
    made = ("adapter", "encoder/", "compressed/", "runs/", "build/")
    found = {(page, path) for page, path in found if not path.startswith(made)}
    assert len(found) > 10
    assert {one for one in found if not any((root / one[1]).exists() for root in roots)} == set()
