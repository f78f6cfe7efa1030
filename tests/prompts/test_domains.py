"""Domain files: those of the package, and a user's own with its mistakes."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

import pytest
from pipeline_data import configured, write_data

from trsr.config import load_config
from trsr.errors import ConfigError
from trsr.pipeline import run
from trsr.prompts import PromptSettings, PromptWriter, load_domain
from trsr.types import Item, Query, UserHistory


def own(tmp_path: Path, change: tuple[str, str] = ("", "")) -> str:
    text = resources.files("trsr.prompts").joinpath("domains", "films.toml").read_text("utf-8")
    assert change[0] in text
    path = tmp_path / "mine.toml"
    path.write_text(text.replace(*change, 1) if change[0] else text, "utf-8")
    return str(path)


def test_a_file_of_ones_own_has_the_form_of_those_of_the_package(tmp_path: Path) -> None:
    assert load_domain(own(tmp_path)) == load_domain("films")
    assert load_domain(own(tmp_path)).digest("worked") == load_domain("films").digest("worked")


def test_the_digest_follows_the_words_and_the_settings_but_not_the_path(tmp_path: Path) -> None:
    def digest(summarized: bool = True, **settings: object) -> str:
        own = PromptSettings(**settings)
        return PromptWriter(own, lambda prompt: 1, 100, summarized=summarized).digest

    assert digest(domain=own(tmp_path)) == digest(domain="films")
    assert digest(domain=own(tmp_path, ("none yet", "nothing"))) != digest(domain="films")
    assert digest(domain="films", recent=5) != digest(domain="films")
    assert digest(domain="films", style="worked") != digest(domain="films")
    # The words of the style profile count where it is used.
    other = own(tmp_path, ("Fill in the profile of", "Write down"))
    assert digest(domain=other) == digest(domain="films")
    assert digest(domain=other, style="profile") != digest(domain="films", style="profile")
    # The words of rank_plain count in runs without summaries.
    other = own(tmp_path, ("Given the films that", "From the films that"))
    assert digest(domain=other) == digest(domain="films")
    assert digest(domain=other, summarized=False) != digest(domain="films", summarized=False)
    assert digest(domain="films", summarized=False) != digest(domain="films")


def test_a_file_without_rank_plain_uses_rank(
    tmp_path: Path,
) -> None:
    text = Path(own(tmp_path)).read_text("utf-8")
    before, _, rest = text.partition("[[rank_plain]]")
    after = "# ---- instruct" + rest.partition("# ---- instruct")[2]
    (tmp_path / "mine.toml").write_text(before + after, "utf-8")
    settings = PromptSettings(domain=str(tmp_path / "mine.toml"))
    summarized = PromptWriter(settings, lambda prompt: 1, 100)
    plain = PromptWriter(settings, lambda prompt: 1, 100, summarized=False)
    query = Query("q", UserHistory("u", ()), (Item("1", (("title", "A"),)),))
    assert plain.rank(query) == summarized.rank(query)
    assert "Taste: none yet" in plain.rank(query)[0].messages[-1].content
    assert plain.digest == summarized.digest


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("$candidate", "$candidat"), ["rank", "$candidat", "did you mean candidate?"]),
        (("$candidate", "it"), ["rank", "$candidate must stand exactly once, not 0 times"]),
        (("$candidate", "$candidate $candidate"), ["rank", "once, not 2 times"]),
        (("$summary\n", "$candidate\n"), ["rank"]),
        (("$candidate", "for $5: $candidate"), ["write $$ for a dollar sign"]),
        (
            ('Next film: $candidate"""\n\n# ---- instruct', 'Next: $summary"""\n\n# ---- instruct'),
            ["rank_plain: there is no placeholder $summary", "$candidate must stand exactly once"],
        ),
        (('no = "No"', 'no = "Yes"'), ["must be different"]),
        (('no = "No"', 'noo = "No"'), ["no: ", "noo: "]),
        (
            ('role = "system"', 'role = "sytem"'),
            ["rank.0.role", "'system', 'user' or 'assistant'"],
        ),
        (('yes = "Yes"', "yes = "), ["not TOML", "line"]),
    ],
)
def test_mistakes_are_named_with_the_file_and_the_place(
    tmp_path: Path, change: tuple[str, str], words: list[str]
) -> None:
    path = own(tmp_path, change)
    with pytest.raises(ConfigError) as caught:
        load_domain(path)
    assert path in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_the_candidate_must_come_after_what_all_candidates_share(tmp_path: Path) -> None:
    path = own(tmp_path, ("$candidate", "$swap"))
    text = Path(path).read_text("utf-8").replace("$recent", "$candidate", 1)
    Path(path).write_text(text.replace("$swap", "$recent", 1), "utf-8")
    with pytest.raises(ConfigError, match="after"):
        load_domain(path)


def test_a_missing_file_and_an_unknown_name_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.toml"):
        load_domain(str(tmp_path / "absent.toml"))
    with pytest.raises(ConfigError, match="did you mean films"):
        load_domain("film")


def test_a_missing_style_is_an_error(tmp_path: Path) -> None:
    text = Path(own(tmp_path)).read_text("utf-8").split("[worked]")[0]
    (tmp_path / "mine.toml").write_text(text, "utf-8")
    settings = PromptSettings(domain=str(tmp_path / "mine.toml"), style="worked")
    writer = PromptWriter(settings, lambda prompt: 1, 100)
    with pytest.raises(ConfigError, match="no style 'worked': set prompts.style = 'instruct'"):
        writer.write([Item("1", (("title", "A"),))])


def test_the_least_file_of_the_tutorial_runs_without_summaries_and_is_refused_with_them(
    tmp_path: Path,
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "tutorial.md").read_text("utf-8")
    (least,) = re.findall(r"```toml\n(yes = .*?)```", page, re.S)
    (tmp_path / "wine.toml").write_text(least, "utf-8")
    write_data(tmp_path)
    text = configured(
        prompts={"domain": "./wine.toml"},
        summarize={"strategy": "none"},
        rank={"rankers": ["popular", "llm_zero_shot"]},
    )
    (tmp_path / "mine.toml").write_text(text, "utf-8")
    config = load_config(tmp_path / "mine.toml", [f"run.folder={tmp_path / 'run'}"])
    assert [one.made for one in run(config)] == [True] * 5
    asked = "the domain .*wine.toml has no style 'instruct': add .*or set summarize.strategy"
    with pytest.raises(ConfigError, match=asked):
        load_config(tmp_path / "mine.toml", ["summarize.strategy=hierarchical"])
    # nobody reads a summary, so that none is written
    load_config(
        tmp_path / "mine.toml", ["summarize.strategy=hierarchical", "rank.rankers=['popular']"]
    )


def test_a_dollar_sign_in_a_file_and_in_an_item_is_a_dollar_sign(tmp_path: Path) -> None:
    path = own(tmp_path, ("Next film:", "Next film (under $$9):"))
    item = Item("1", (("title", "$9 $$ $candidate"),))
    writer = PromptWriter(PromptSettings(domain=path), lambda prompt: 1, 100)
    (prompt,) = writer.rank(Query("q", UserHistory("u", ()), (item,)))
    assert "Next film (under $9): title: $9 $$ $candidate" in prompt.messages[-1].content
