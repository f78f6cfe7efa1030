"""Items as vectors: what stands in a prompt, what is learned, and what a stopped run becomes."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from stopping import StopHereError, Stopping
from train_toy import ToyWriter, recall, toy_cases, toy_train_vectors

from trsr.errors import ModelError, PromptError, StoreError
from trsr.models import ModelSettings, open_model
from trsr.models.hf.item_vectors import ENCODER, VECTORS, ItemEncoder
from trsr.models.hf.model import TransformersModel
from trsr.training.encode import EncodedCase
from trsr.training.losses import scores
from trsr.training.settings import TrainSettings
from trsr.training.start import open_trainable
from trsr.training.vectors import VectorAdapter, take_encoder
from trsr.types import Item, Message, Prompt, Query, Vectors

COUNT = 3


class VectorWriter(ToyWriter):
    """The toy's prompts; for a model with an encoder each item stands as vectors."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.count = getattr(model, "item_vectors", 0)

    def _item(self, item: Item) -> str | Vectors:
        text = item.fields[0][1]
        return Vectors(text, self.count) if self.count else text

    def rank(self, query: Query) -> list[Prompt]:
        user = [part for item in query.history.items for part in (self._item(item), ", ")]
        head = Message("system", "Does the user take the next item?")
        return [
            Prompt((head, Message("user", (*user, "next item: ", self._item(item)))))
            for item in query.candidates
        ]


def settings(model: Path, **more: Any) -> ModelSettings:
    return ModelSettings(name=str(model), dtype="float32", device="cpu", **more)


def stirred(model: Path, **more: Any) -> tuple[TransformersModel, VectorAdapter, Any]:
    """A model with an encoder whose weights all matter."""
    opened = open_trainable(settings(model, **more), "")
    adapter, encoded = take_encoder(opened, COUNT, TrainSettings(dropout=0.0), 0)
    torch.manual_seed(3)
    with torch.no_grad():
        for name, one in adapter.parameters.items():
            if "lora_B" in name or name.endswith("map"):
                one.copy_(0.1 * torch.randn_like(one))
    return opened, adapter, encoded


def plain_vectors(encoder: ItemEncoder, text: str) -> torch.Tensor:
    """An item's vectors by the formula, through the network's own forward pass."""
    words = encoder.network.get_input_embeddings()
    table, tokens = words.weight, encoder.tokens(text)
    inputs = torch.cat([table[list(tokens)], encoder.slots])
    states = encoder.network.get_decoder()(inputs_embeds=inputs[None]).last_hidden_state[0]
    size = table.square().mean().sqrt()

    def scaled(rows: torch.Tensor) -> torch.Tensor:
        return rows / (rows.square().mean(-1, keepdim=True).sqrt() + 1e-9) * size

    cuts = [-(-len(tokens) * at // COUNT) for at in range(COUNT + 1)]
    means = [table[list(tokens[a:b])].sum(0) for a, b in itertools.pairwise(cuts)]  # scaled below
    return scaled(torch.stack(means)) + scaled(states[-COUNT:]) @ encoder.map


def plain_scores(opened: TransformersModel, adapter: VectorAdapter, prompt: Prompt) -> Any:
    """log p(yes), log p(no): the prompt's words and vectors as one `inputs_embeds`."""
    question = opened.encode_answers(prompt, ["Yes", "No"])
    base = opened.items.numbers.base  # type: ignore[union-attr]
    texts = iter(p.text for m in prompt.messages for p in m.parts if isinstance(p, Vectors))
    rows, at = [], 0
    table = opened.network.get_input_embeddings().weight
    while at < len(question.stem):
        if question.stem[at] < base:
            rows.append(table[question.stem[at]][None])
            at += 1
        else:
            rows.append(plain_vectors(adapter.encoder, next(texts)))
            at += COUNT
    found = []
    for answer in question.answers:
        inputs = torch.cat([*rows, table[list(answer[:-1])]])[None]
        logits = opened.network(inputs_embeds=inputs).logits[0].log_softmax(-1)
        found.append(sum(logits[len(inputs[0]) - len(answer) + i, a] for i, a in enumerate(answer)))
    return torch.stack(found)  # type: ignore[arg-type]


def test_vectors_score_as_inputs_embeds_run_plainly(tiny_model: Path) -> None:
    opened, adapter, _ = stirred(tiny_model)
    prompts = [one for case in toy_cases(3) for one in VectorWriter(opened).rank(case.query)]
    together = opened.score(prompts, ("Yes", "No"))
    for prompt, shared in zip(prompts, together, strict=True):
        alone = opened.score([prompt], ("Yes", "No"))[0]
        with torch.no_grad():
            plain = plain_scores(opened, adapter, prompt).numpy()
        assert abs(alone - plain).max() < 1e-5
        assert abs(shared - plain).max() < 1e-5
    assert len({tuple(row) for row in together.round(4)}) > 3


def test_gradients_reach_the_encoder_as_in_a_plain_pass(tiny_model: Path) -> None:
    opened, adapter, encoded = stirred(tiny_model)
    opened.network.train()
    case = toy_cases(1)[0]
    prompts = VectorWriter(opened).rank(case.query)
    asked = [opened.encode_answers(prompt, ["Yes", "No"]) for prompt in prompts]
    own = EncodedCase.of(
        "a",
        [tuple(one.stem) for one in asked],
        [(one.answers[0], one.answers[1]) for one in asked],
        [True, False, False],
    )
    with encoded.activations([own]):
        margins = scores(opened.network, [own], 512)
    weight = torch.tensor([1.0, -2.0, 0.5])
    (margins * weight).sum().backward()
    found = {name: one.grad.clone() for name, one in adapter.parameters.items()}
    for one in adapter.parameters.values():
        one.grad = None
    plain = torch.stack([plain_scores(opened, adapter, prompt) for prompt in prompts])
    ((plain[:, 0] - plain[:, 1]) * weight).sum().backward()
    for name, one in adapter.parameters.items():
        assert one.grad.norm() > 1e-4, name
        assert (one.grad - found[name]).norm() < 1e-4 * one.grad.norm() + 1e-6, name


def test_vectors_count_as_tokens(tiny_model: Path) -> None:
    opened, _, _ = stirred(tiny_model)
    one = Prompt((Message("user", ("a", Vectors("some steel bolts", COUNT), "b")),))
    assert opened.count_tokens(one) == opened.count_tokens(Prompt((Message("user", "a"),))) + 4
    with pytest.raises(PromptError, match=r"holds 5 vectors.*makes 3: set prompts.item_vectors"):
        opened.count_tokens(Prompt((Message("user", Vectors("a", 5)),)))


def trained(model: Path, folder: Path, cases: int = 24, **more: Any) -> Any:
    options = {"learning_rate": 2e-2, "epochs": 4, "dropout": 0.0} | more
    return toy_train_vectors(model, folder, toy_cases(cases), VectorWriter, COUNT, **options)


@pytest.fixture(scope="module")
def encoded(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Any]:
    """Where a training lies, what came of it, and of each pass of the encoder: for gradients?"""
    folder, read = tmp_path_factory.mktemp("learned"), list[bool]()
    encode = ItemEncoder.encode

    def watched(self: ItemEncoder, texts: Any, batch_tokens: int) -> torch.Tensor:
        read.append(torch.is_grad_enabled())
        return encode(self, texts, batch_tokens)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ItemEncoder, "encode", watched)
        return folder, trained(tiny_model, folder), read


@pytest.fixture(scope="module")
def learned(encoded: tuple[Path, Any, Any]) -> Path:
    return encoded[0] / "out"


def test_the_ranking_loss_trains_on_finished_vectors(encoded: tuple[Path, Any, Any]) -> None:
    folder, result, read = encoded
    # a pass with gradients for each step of the second training; one without for the catalog
    assert read == [True] * result.steps + [False]
    names = {one.name for one in (folder / "out" / ENCODER).iterdir()}
    assert names >= {VECTORS, "slots.safetensors", "adapter_model.safetensors"}
    taught = folder / "state" / "distill" / "adapter"
    one, other = (load_file(at / "adapter_model.safetensors") for at in (taught, folder / "out"))
    assert any(not torch.equal(one[name], other[name]) for name in one)


def tuned(model: Path, adapter: Path) -> tuple[float, TransformersModel]:
    """The share of fresh users whose item is found, and the model."""
    opened: Any = open_model(settings(model), adapter)
    fresh = toy_cases(130)[100:]
    return recall(opened, fresh, VectorWriter(opened)), opened


def test_what_only_the_texts_say_is_learned(
    tiny_model: Path, learned: Path, tmp_path: Path
) -> None:
    found, opened = tuned(tiny_model, learned)
    assert opened.item_vectors == COUNT
    assert found > 0.9
    # the same vectors, dealt to other items
    dealt = tmp_path / "dealt"
    shutil.copytree(learned, dealt)
    path = dealt / ENCODER / VECTORS
    with safe_open(path, "pt") as opened_file:
        digest = opened_file.metadata()["encoder"]
    tensors = load_file(path)
    order = torch.randperm(len(tensors["keys"]), generator=torch.Generator().manual_seed(1))
    save_file(tensors | {"keys": tensors["keys"][order].contiguous()}, path, {"encoder": digest})
    assert tuned(tiny_model, dealt)[0] < 0.6


def test_vectors_are_read_where_they_are_and_made_where_not(
    tiny_model: Path, learned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = VectorWriter(tuned(tiny_model, learned)[1]).rank(toy_cases(1)[0].query)
    bare = tmp_path / "bare"
    shutil.copytree(learned, bare)
    (bare / ENCODER / VECTORS).unlink()
    made = tuned(tiny_model, bare)[1].score(prompts, ("Yes", "No"))
    monkeypatch.setattr(ItemEncoder, "encode", None)  # a call fails
    read = tuned_model(tiny_model, learned).score(prompts, ("Yes", "No"))
    assert abs(made - read).max() < 1e-5
    # vectors of another encoder are not taken
    shutil.copy(learned / ENCODER / VECTORS, bare / ENCODER / VECTORS)
    slots = load_file(bare / ENCODER / "slots.safetensors")
    save_file(slots | {"slots": slots["slots"] + 1}, bare / ENCODER / "slots.safetensors")
    with pytest.raises(TypeError):
        tuned_model(tiny_model, bare).score(prompts, ("Yes", "No"))


def test_what_is_damaged_is_named(tiny_model: Path, learned: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(learned, broken)
    path = broken / ENCODER / VECTORS
    with safe_open(path, "pt") as opened:
        digest = opened.metadata()["encoder"]
    tensors = load_file(path)
    cut = {"vectors": tensors["vectors"][:, 1:].contiguous(), "keys": tensors["keys"]}
    for wrong in (cut, {**tensors, "keys": tensors["keys"][1:].contiguous()}):
        save_file(wrong, path, {"encoder": digest})
        with pytest.raises(StoreError, match=r"vectors\.safetensors have another shape"):
            tuned_model(tiny_model, broken)
    path.write_bytes(b"none")
    with pytest.raises(StoreError, match=r"vectors\.safetensors cannot be read .*made again"):
        tuned_model(tiny_model, broken)
    slots = broken / ENCODER / "slots.safetensors"
    save_file({"slots": torch.ones(2, 5), "map": torch.ones(5, 5)}, slots)
    path.unlink()
    opened = tuned_model(tiny_model, broken)
    with pytest.raises(ModelError, match="is of another model"):
        opened.score(VectorWriter(opened).rank(toy_cases(1)[0].query), ("Yes", "No"))
    slots.write_bytes(b"none")
    with pytest.raises(ModelError, match=r"item encoder in .* cannot be read .*train again"):
        tuned_model(tiny_model, broken)


def tuned_model(model: Path, adapter: Path) -> Any:
    return open_model(settings(model), adapter)


def outcome(folder: Path) -> dict[str, bytes]:
    found = sorted((folder / "out").rglob("*.safetensors"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def test_a_stopped_training_ends_bit_for_bit_like_an_unbroken_one(
    tiny_model: Path, tmp_path: Path
) -> None:
    quick: dict[str, Any] = {"cases": 8, "epochs": 1, "checkpoint_steps": 1, "dropout": 0.2}
    trained(tiny_model, tmp_path / "whole", **quick)
    # in each of the three trainings, and while items are encoded
    for stop in (2, 2, 4, 5):
        with pytest.raises(StopHereError):
            trained(tiny_model, tmp_path / "broken", progress=Stopping(stop), **quick)
    trained(tiny_model, tmp_path / "broken", **quick)
    assert outcome(tmp_path / "broken") == outcome(tmp_path / "whole")
    assert len(outcome(tmp_path / "whole")) == 4
