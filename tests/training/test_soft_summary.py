"""Soft summaries: what is learned of old blocks alone, one step a block, and what is stored."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stopping import StopHereError, Stopping
from train_toy import QUICK, WORDS, recall, toy_train_vectors

from trsr.errors import PromptError
from trsr.models import ModelSettings, open_model
from trsr.models.hf import soft_summary
from trsr.models.hf.item_vectors import ENCODER
from trsr.models.hf.soft_summary import SUMMARY, SummaryEncoder, steps
from trsr.progress import Silent
from trsr.storage.response_cache import ResponseCache
from trsr.training.encode import encode_cases
from trsr.training.losses import scores
from trsr.training.settings import TrainSettings
from trsr.training.start import open_trainable, run_training
from trsr.training.vectors import take_encoder
from trsr.types import (
    Case,
    Interaction,
    Item,
    Message,
    Prompt,
    Query,
    Summary,
    UserHistory,
    Vectors,
)

ITEMS, SLOTS, BLOCK = 2, 3, 2
KINDS = ("Yes", "loud")

pytestmark = pytest.mark.usefixtures("one_thread")


class SoftWriter:
    """The summary, the latest item and a candidate; for a model without an encoder texts alone."""

    answers = ("Yes", "No")
    shortened = 0

    def __init__(self, model: Any, soft: bool = True) -> None:
        self.items = getattr(model, "item_vectors", 0)
        self.soft = getattr(model, "summary_vectors", 0) * soft

    def _item(self, item: Item) -> str | Vectors:
        text = item.fields[0][1]
        return Vectors(text, self.items) if self.items else text

    def rank(self, query: Query) -> list[Prompt]:
        assert query.summary is not None
        shown = Vectors(query.summary.text, self.soft, "summary") if self.soft else "nothing"
        head = Message("system", "Does the user take the next item?")
        recent = self._item(query.history.items[-1])
        return [
            Prompt((head, Message("user", (shown, ", ", recent, " next item: ", self._item(one)))))
            for one in query.candidates
        ]


def text_of(items: tuple[Item, ...]) -> str:
    """As the strategy writes it."""
    lines = [item.fields[0][1] for item in items]
    cut = [lines[at : at + BLOCK] for at in range(0, len(lines), BLOCK)]
    return "\n\n".join("\n".join(block) for block in cut)


def soft_case(number: int) -> Case:
    """A user whose first block alone says which of the two candidates is taken."""
    draw = random.Random(f"soft {number}")
    kind = KINDS[number % 2]
    first = [Item(f"a{n}", (("title", f"{kind} {draw.choice(WORDS)}"),)) for n in range(BLOCK)]
    rest = [
        Item(f"b{n}", (("title", f"{draw.choice(WORDS)} {draw.choice(WORDS)}"),))
        for n in range(BLOCK * draw.randint(1, 3))
    ]
    order = list(KINDS)
    draw.shuffle(order)
    found = [
        Item(f"c{n}", (("title", f"{name} {draw.choice(WORDS)}"),)) for n, name in enumerate(order)
    ]
    history = UserHistory(f"u{number}", tuple(Interaction(one, 0.0) for one in (*first, *rest)))
    summary = Summary(history.user, text_of(history.items), len(history))
    query = Query(f"soft/{number}", history, tuple(found), summary)
    return Case(query, frozenset({f"c{order.index(kind)}"}))


def soft_cases(count: int, start: int = 0) -> list[Case]:
    return [soft_case(number) for number in range(start, start + count)]


def settings(model: Path) -> ModelSettings:
    return ModelSettings(name=str(model), dtype="float32", device="cpu")


def opened_soft(
    model: Path, stir: float = 0.0, reach: int = 2, dropout: float = 0.0
) -> tuple[Any, Any, Any]:
    """A model in training, its weights, and what gives a pass its vectors."""
    opened = open_trainable(settings(model), "")
    adapter, encoded = take_encoder(
        opened, ITEMS, TrainSettings(dropout=dropout), 0, summary=SLOTS, reach=reach
    )
    torch.manual_seed(3)
    with torch.no_grad():
        for name, one in adapter.parameters.items():
            if stir and ("lora_B" in name or name.endswith("map")):
                one.copy_(stir * torch.randn_like(one))
    return opened, adapter, encoded


def test_what_only_old_blocks_say_is_learned(tiny_model: Path, tmp_path: Path) -> None:
    opened, adapter, encoded = opened_soft(tiny_model)
    writer = SoftWriter(opened)
    quick = QUICK | {"cases_per_step": 8, "epochs": 2, "dropout": 0.0}
    run_training(
        opened,
        encode_cases(soft_cases(200), writer, opened, compared=True),
        TrainSettings(**quick),
        name="tiny",
        identity={},
        seed=0,
        out=tmp_path / "out",
        state=tmp_path / "state",
        progress=Silent(),
        adapter=adapter,
        activations=encoded,
    )
    fresh = soft_cases(60, start=1000)
    # two candidates a case: the share that is found is the AUC
    assert recall(opened, fresh, writer) > 0.9
    donors = [one.query.summary for one in random.Random(5).sample(fresh, len(fresh))]
    strange = [
        Case(
            Query(
                one.query.id,
                one.query.history,
                one.query.candidates,
                Summary(one.query.history.user, donor.text if donor else "", 2),
            ),
            one.relevant,
        )
        for one, donor in zip(fresh, donors, strict=True)
    ]
    assert 0.3 < recall(opened, strange, writer) < 0.7
    assert 0.3 < recall(opened, fresh, SoftWriter(opened, soft=False)) < 0.7


def test_a_new_block_costs_one_step(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, _, _ = opened_soft(tiny_model, 0.3)
    text = "\n\n".join(f"{one} bolt\n{one} sea" for one in WORDS[:5])
    shorter = text.rpartition("\n\n")[0]
    asked: list[int] = []
    plain = SummaryEncoder.advance

    def counted(self: Any, before: Any, blocks: Any, numbers: Any, most: int) -> Any:
        asked.extend(numbers)
        return plain(self, before, blocks, numbers, most)

    monkeypatch.setattr(SummaryEncoder, "advance", counted)
    (whole,) = opened.summaries.states([text])
    assert asked == [1, 2, 3, 4, 5]
    store = ResponseCache(tmp_path / "cache.sqlite")
    opened.summaries.forget()
    opened.summaries.keep_in(store)
    opened.summaries.states([shorter])
    opened.summaries.forget()  # as after a new start
    asked.clear()
    # beside another history, in one pass
    grown, other = opened.summaries.states([text, "sea film\nloud film"])
    assert sorted(asked) == [1, 5]
    assert abs(whole - grown).max() < 1e-5
    assert abs(whole - other).max() > 1e-2
    opened.summaries.forget()
    asked.clear()
    assert torch.equal(opened.summaries.states([text])[0], grown)
    assert asked == []
    opened.summaries.forget()
    opened.summaries.identity = "another encoder"
    opened.summaries.states([text])
    assert len(asked) == 5
    # an open block's state is no start for the next block: the one before it is kept too
    assert opened.summaries.keep(f"{text}\n\nlamp") == opened.summaries.keys(f"{text}\n\nlamp")[-1:]
    asked.clear()
    opened.summaries.forget()
    opened.summaries.states([f"{text}\n\nlamp\nsea"])
    assert asked == [6]


def test_the_states_are_those_of_a_plain_pass(tiny_model: Path) -> None:
    opened, adapter, _ = opened_soft(tiny_model, 0.3)
    encoder = adapter.summary
    with torch.no_grad():
        items = adapter.encoder.encode(["a sea film", "a loud bolt", "steel"], 512)
        table = encoder.network.get_input_embeddings().weight
        size = table.square().mean().sqrt()

        def scaled(rows: torch.Tensor) -> torch.Tensor:
            return rows / (rows.square().mean(-1, keepdim=True).sqrt() + 1e-9) * size

        def read(*inputs: torch.Tensor) -> torch.Tensor:
            given = torch.cat([*inputs, encoder.slots])[None]
            states = encoder.network.get_decoder()(inputs_embeds=given).last_hidden_state[0]
            return scaled(states[-SLOTS:]) @ encoder.map

        def means(block: torch.Tensor) -> torch.Tensor:
            rows = block.transpose(0, 1).flatten(0, 1)
            return torch.nn.functional.adaptive_avg_pool1d(rows.T, SLOTS).T

        first = means(items[:2])
        one = scaled(first) + read(items[:2].flatten(0, 1))
        second = (first + means(items[2:])) / 2
        two = scaled(second) + read(one, items[2:].flatten(0, 1))
    found = opened.summaries.vectors("a sea film\na loud bolt\n\nsteel")
    assert abs(found - two).max() < 1e-5


def test_a_validation_in_the_middle_of_training_has_no_dropout(tiny_model: Path) -> None:
    opened, adapter, _ = opened_soft(tiny_model, 0.3, dropout=0.5)
    adapter.summary.eval()
    before = opened.summaries.vectors("a sea film\n\nsteel")
    opened.summaries.forget()
    adapter.summary.train()
    assert torch.equal(opened.summaries.vectors("a sea film\n\nsteel"), before)


def test_texts_that_nobody_asks_for_are_forgotten(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, _, _ = opened_soft(tiny_model, 0.3)
    writer = SoftWriter(opened)
    monkeypatch.setattr(soft_summary, "_MOST_TEXTS", 3)
    monkeypatch.setattr(soft_summary, "_UNDER_WAY", 2)
    cases = soft_cases(4)
    before = [opened.score(writer.rank(one.query), writer.answers) for one in cases]
    assert opened.summaries.full
    first = cases[0].query.summary
    assert first is not None
    opened.summaries.numbers.of(Vectors(first.text, SLOTS, "summary"))  # asked for again
    opened.forget()
    assert len(opened.summaries.numbers) == 2
    numbers = opened.summaries.numbers
    assert first.text in {numbers.text(block) for block in numbers._texts}
    again = [opened.score(writer.rank(one.query), writer.answers) for one in cases]
    assert abs(np.stack(before) - np.stack(again)).max() < 1e-5


def test_gradients_reach_back_through_the_latest_blocks_alone(tiny_model: Path) -> None:
    case = soft_case(1)
    blocks = len(steps(case.query.summary.text if case.query.summary else ""))
    found = {}
    for reach in (1, blocks, blocks + 3):
        opened, adapter, encoded = opened_soft(tiny_model, 0.3, reach)
        with torch.no_grad():
            adapter.encoder.map.zero_()  # as when such a training begins
        (own,) = encode_cases([case], SoftWriter(opened), opened, compared=True)
        with encoded.activations([own]):
            margins = scores(opened.network, [own], 512)
        (margins[0] - margins[1]).backward()
        found[reach] = margins.detach(), adapter.summary.map.grad.clone()
    for reach in found:
        assert abs(found[reach][0] - found[1][0]).max() < 1e-4  # the same numbers
    assert torch.equal(found[blocks][1], found[blocks + 3][1])
    assert (found[blocks][1] - found[1][1]).norm() > 1e-3 * found[1][1].norm()


def test_a_model_without_soft_summaries_refuses_them(tiny_model: Path) -> None:
    opened = open_trainable(settings(tiny_model), "")
    take_encoder(opened, ITEMS, TrainSettings(), 0)
    asked = Prompt((Message("user", Vectors("a sea film", SLOTS, "summary")),))
    with pytest.raises(PromptError, match="trained without soft summaries: train again"):
        opened.count_tokens(asked)


def trained(model: Path, folder: Path, progress: Any = None) -> None:
    options = {"epochs": 1, "checkpoint_steps": 1, "dropout": 0.2, "progress": progress}
    soft = {"summary": SLOTS, "reach": 2}
    toy_train_vectors(model, folder, soft_cases(8), SoftWriter, ITEMS, **options, **soft)


def test_a_stopped_training_ends_bit_for_bit_like_an_unbroken_one(
    tiny_model: Path, tmp_path: Path
) -> None:
    trained(tiny_model, tmp_path / "whole")
    for stop in (3, 2):  # in the second training, and in the third
        with pytest.raises(StopHereError):
            trained(tiny_model, tmp_path / "broken", Stopping(stop))
    trained(tiny_model, tmp_path / "broken")
    files = [
        {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.safetensors")}
        for folder in (tmp_path / "whole" / "out", tmp_path / "broken" / "out")
    ]
    assert files[0] == files[1]
    whole = tmp_path / "whole"
    # items' vectors stay as they were followed with, and the summaries learn on
    for part, same in ((ENCODER, True), (f"{ENCODER}/{SUMMARY}", False)):
        before, after = (
            (folder / part / "adapter_model.safetensors").read_bytes()
            for folder in (whole / "state" / "distill" / "adapter", whole / "out")
        )
        assert (before == after) == same
    opened: Any = open_model(settings(tiny_model), whole / "out")
    assert opened.summary_vectors == SLOTS
    assert opened.summaries.identity == opened.identity
