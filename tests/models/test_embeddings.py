"""Embeddings: each text computed once a model, kept, and taken up again whatever happened."""

from __future__ import annotations

import json
import logging
import threading

import numpy as np
import polars as pl
import pytest
from tiny import tiny_tokenizer

from trsr.errors import ConfigError, ModelError
from trsr.models import encoders
from trsr.models.encoders import SentenceEncoder, embed


class Letters:
    """(length, number of e); notes what it was asked."""

    def __init__(self, identity: str = "a" * 32) -> None:
        self.identity = identity
        self.asked: list[str] = []

    def encode(self, texts):
        self.asked += texts
        return np.array([[len(text), text.count("e")] for text in texts], np.float32)


class Bar:
    def __init__(self) -> None:
        self.said: list[object] = []

    def begin(self, total, unit) -> None:
        self.said.append((total, unit))

    def advance(self, steps=1, note="") -> None:
        self.said.append(steps)


def test_every_text_is_computed_once_and_kept(tmp_path) -> None:
    model, bar = Letters(), Bar()
    found = embed(["tree", "", "oak", "tree"], model, cache=tmp_path, progress=bar)
    assert {text: vector.tolist() for text, vector in found.items()} == {
        "tree": [4, 2],
        "": [0, 0],
        "oak": [3, 0],
    }
    assert sorted(model.asked) == ["", "oak", "tree"]
    assert bar.said == [(3, "texts to embed"), 3]
    again = Letters()
    more = embed(["oak", "elm", "tree"], again, cache=tmp_path)
    assert again.asked == ["elm"]
    assert {text: vector.tolist() for text, vector in more.items()} == {
        "oak": [3, 0],
        "elm": [3, 1],
        "tree": [4, 2],
    }


def test_another_model_has_its_own(tmp_path) -> None:
    embed(["tree"], Letters(), cache=tmp_path)
    other = Letters("b" * 32)
    embed(["tree"], other, cache=tmp_path)
    assert other.asked == ["tree"]


def test_a_kill_loses_one_part_at_most(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(encoders, "_PART", 10)
    monkeypatch.setattr(encoders, "_BATCH", 5)
    texts = [f"text {n:03d}" for n in range(40)]

    class Dies(Letters):
        def encode(self, some):
            if len(self.asked) >= 25:
                raise KeyboardInterrupt
            return super().encode(some)

    with pytest.raises(KeyboardInterrupt):
        embed(texts, Dies(), cache=tmp_path)
    rest = Letters()
    found = embed(texts, rest, cache=tmp_path)
    assert len(rest.asked) == 20
    assert [found[text][0] for text in texts] == [8] * 40


def test_a_damaged_file_is_computed_again_and_said(tmp_path, caplog) -> None:
    embed(["tree"], Letters(), cache=tmp_path)
    (kept,) = (tmp_path / "embeddings" / ("a" * 32)).glob("*.parquet")
    kept.write_bytes(b"PAR1 no")
    model = Letters()
    with caplog.at_level(logging.WARNING):
        assert embed(["tree"], model, cache=tmp_path)["tree"].tolist() == [4, 2]
    assert model.asked == ["tree"]
    assert kept.name in caplog.text
    embed(["tree"], again := Letters(), cache=tmp_path)
    assert again.asked == []


def test_several_at_once_do_not_disturb_each_other(tmp_path) -> None:
    texts = [f"text {n}" for n in range(200)]
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(embed(texts, Letters(), cache=tmp_path)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert all(
        {t: v.tolist() for t, v in one.items()} == {t: [len(t), 1] for t in texts} for one in found
    )


def test_values_that_are_no_numbers_and_a_cache_that_cannot_be_written_are_errors(tmp_path) -> None:
    class Broken(Letters):
        def encode(self, texts):
            return super().encode(texts) * np.nan

    with pytest.raises(ModelError, match="not numbers"):
        embed(["tree"], Broken(), cache=tmp_path)
    (tmp_path / "embeddings").write_text("a file stands where the folder should")
    with pytest.raises(ModelError, match="cannot be kept in"):
        embed(["tree"], Letters(), cache=tmp_path)


@pytest.fixture
def folder(tmp_path):
    """A tiny random BERT with mean pooling, as sentence-transformers lays it out."""
    pytest.importorskip("sentence_transformers")
    import torch
    import transformers

    tokenizer = tiny_tokenizer(template=None)
    config = transformers.BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
    )
    torch.manual_seed(0)
    place = tmp_path / "tiny"
    transformers.BertModel(config).save_pretrained(place)
    tokenizer.save_pretrained(place)
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling")]
    modules = [
        {"idx": n, "name": str(n), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for n, (path, kind) in enumerate(kinds)
    ]
    (place / "modules.json").write_text(json.dumps(modules))
    (place / "sentence_bert_config.json").write_text('{"max_seq_length": 32}')
    (place / "1_Pooling").mkdir()
    (place / "1_Pooling" / "config.json").write_text(
        '{"word_embedding_dimension": 16, "pooling_mode_mean_tokens": true}'
    )
    return place


def test_a_sentence_transformers_folder_gives_unit_vectors(folder, monkeypatch, tmp_path) -> None:
    import torch

    monkeypatch.setenv("TRSR_CACHE", str(tmp_path / "cache"))
    encoder = SentenceEncoder(str(folder))
    one, other = encoder.encode(["steel bolts", "a quiet film about the sea " * 20])
    assert np.linalg.norm(one) == pytest.approx(1, abs=1e-5)
    assert np.linalg.norm(other) == pytest.approx(1, abs=1e-5)
    # by hand: the mean of the last states, without padding
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    network = transformers.BertModel.from_pretrained(folder).eval()
    with torch.no_grad():
        tokens = tokenizer(["steel bolts"], return_tensors="pt")
        mean = network(**tokens).last_hidden_state[0].mean(0)
    assert one == pytest.approx((mean / mean.norm()).numpy(), abs=1e-5)


def test_the_identity_is_the_contents_and_not_the_place(folder, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TRSR_CACHE", str(tmp_path / "cache"))
    first = SentenceEncoder(str(folder)).identity
    moved = folder.rename(tmp_path / "moved")
    (moved / "README.md").write_text("words")
    assert SentenceEncoder(str(moved)).identity == first
    (moved / "sentence_bert_config.json").write_text('{"max_seq_length": 16}')
    assert SentenceEncoder(str(moved)).identity != first


def test_weights_that_are_not_safetensors_are_refused(folder, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TRSR_CACHE", str(tmp_path / "cache"))
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="cannot be read"):
        SentenceEncoder(str(folder)).encode(["x"])


def test_a_missing_library_and_a_missing_model_are_told(folder, monkeypatch, tmp_path) -> None:
    import sys

    monkeypatch.setenv("TRSR_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ModelError, match="there is no model folder"):
        SentenceEncoder("./nowhere")
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ConfigError, match=r"pip install 'trsr\[embeddings\]'"):
        SentenceEncoder(str(folder)).encode(["x"])


def test_a_full_disk_is_said_with_what_to_do(tmp_path, monkeypatch) -> None:
    def full(frame, path, **_):
        raise pl.exceptions.ComputeError("parquet: No space left on device (os error 28)")

    monkeypatch.setattr(pl.DataFrame, "write_parquet", full)
    with pytest.raises(ModelError, match="free some space"):
        embed(["tree"], Letters(), cache=tmp_path)
