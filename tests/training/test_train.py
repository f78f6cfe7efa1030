from __future__ import annotations

import itertools
import json
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from tiny import tiny_model_folder
from train_toy import QUICK, ToyWriter, metrics, recall, toy_case, toy_cases, toy_train

from trsr.errors import ConfigError, DataError, ModelError, PromptError
from trsr.models import ModelSettings, ScoringModel, open_model
from trsr.models.token_tree.tokens import distinct_tokens
from trsr.planning.machines import Shape
from trsr.progress import Silent
from trsr.prompts import PromptSettings, PromptWriter
from trsr.training import chance_loss, hardly_converged, late_loss, train
from trsr.training.adapter import Adapter
from trsr.training.encode import EncodedCase
from trsr.training.losses import answer_loss
from trsr.training.settings import TrainSettings
from trsr.training.start import activation_numbers, open_trainable, pass_tokens, token_bytes
from trsr.training.step import Schedule, batches


def rows(folder: Path) -> list[dict[str, Any]]:
    text = (folder / "out" / "curves.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


# Recorded on a CPU in fp32 with one thread: a change says that training has changed.
GOLDEN = {
    "answer": [7.962059, 6.000842, 4.835249],
    "listwise": [2.609434, 0.620194, 0.367093],
    "text": [6.543855, 6.273188, 5.905918],
}


@pytest.mark.parametrize("loss", GOLDEN)
def test_each_loss_learns_the_toy_task_and_begins_as_recorded(
    loss: str, tiny_model: Path, tmp_path: Path
):
    unseen = [toy_case(number) for number in range(100, 130)]
    result = toy_train(
        tiny_model, tmp_path, toy_cases(24), loss=loss, epochs=5, cases_per_step=4, rank=16
    )
    losses = result.losses
    assert losses[:3] == pytest.approx(GOLDEN[loss], abs=1e-4)
    assert len(losses) == result.steps == 30
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    tuned = open_model(ModelSettings(name=str(tiny_model), dtype="float32"), result.adapter)
    if loss != "text":  # a few tokens of a hundred: learned last
        assert recall(tuned, unseen) > 0.8


def test_how_passes_are_made_changes_rounding_only(tiny_model: Path, tmp_path: Path):
    def weights(name: str, **more: Any) -> dict[str, torch.Tensor]:
        toy_train(tiny_model, tmp_path / name, epochs=1, dropout=0.0, **more)
        return load_file(tmp_path / name / "out" / "adapter_model.safetensors")

    whole = weights("whole")
    for name, more in (
        ("small", {"batch_tokens": 64}),
        ("checkpointed", {"gradient_checkpointing": True}),
    ):
        found = weights(name, **more)
        assert found.keys() == whole.keys()
        for key, tensor in found.items():
            torch.testing.assert_close(tensor, whole[key], rtol=1e-3, atol=1e-4)


GIB = 2**30


@pytest.mark.parametrize(
    ("memory", "most", "tokens"),
    [(24 * GIB, 8192, 5482), (8 * GIB, 8192, 2741), (2 * GIB, 8192, 1024), (24 * GIB, 512, 512)],
)
def test_memory_decides_how_much_a_pass_holds_on_a_cpu(
    memory: int, most: int, tokens: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("trsr.training.start.memory", lambda: memory)
    settings = ModelSettings(batch_tokens=most)
    each = 2 * activation_numbers(30, 576, 1536)  # SmolLM2-135M in bfloat16
    assert pass_tokens(settings, torch.device("cpu"), each) == tokens
    assert pass_tokens(settings, torch.device("cuda"), each) == most


def test_a_pass_keeps_as_many_bytes_of_a_token_as_are_counted(tiny_model: Path):
    opened = open_trainable(ModelSettings(name=str(tiny_model), dtype="float32"), "")
    network = opened.network.train()
    Adapter(network, TrainSettings(dropout=0), "tiny", 0)
    case = EncodedCase.of("c", [tuple(range(3, 90))], [((5,), (6,))], [True])
    frozen = {one.untyped_storage().data_ptr() for one in network.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in frozen:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda one: one):
        loss = answer_loss(network, [case], 1024).sum()
    assert sum(kept.values()) / case.distinct_tokens == pytest.approx(
        token_bytes(opened.network), rel=0.4
    )
    loss.backward()


def test_layers_of_different_widths_are_counted_by_their_mean(tmp_path: Path):
    folder = tiny_model_folder(tmp_path, shape="gemma3n")
    opened = open_trainable(ModelSettings(name=str(folder), dtype="float32"), "")
    numbers = activation_numbers(2, 32, (64 + 96) / 2)
    assert token_bytes(opened.network) == 4 * numbers
    shape = Shape.read(folder, 4.0)
    assert activation_numbers(shape.layers, shape.hidden, shape.inner) == numbers


def test_the_result_counts_and_the_curves_hold_every_step(tiny_model: Path, tmp_path: Path):
    result = toy_train(tiny_model, tmp_path, toy_cases(10), epochs=2)
    assert (result.steps, result.cases, result.best_step) == (6, 20, 6)
    assert 0 < result.distinct_tokens < result.tokens
    found = rows(tmp_path)
    assert [row["step"] for row in found] == [1, 2, 3, 4, 5, 6]
    assert [row["cases"] for row in found] == [4, 4, 2, 4, 4, 2]
    assert [row["epoch"] for row in found] == [0, 0, 0, 1, 1, 1]
    assert tuple(row["loss"] for row in found) == result.losses
    assert sum(row["tokens"] for row in found) == result.tokens
    assert result.best_score is None
    assert not result.stopped_early
    assert not result.validations


def test_the_best_validated_adapter_is_kept(tiny_model: Path, tmp_path: Path):
    values = iter([0.2, 0.9, 0.5])
    seen: list[dict[str, torch.Tensor]] = []

    def validate(model: ScoringModel) -> Any:
        assert isinstance(model, ScoringModel)
        network = model.inner.network  # type: ignore[attr-defined]
        assert not network.training
        state = network.state_dict()
        seen.append({name: state[name].clone() for name in state if "lora" in name})
        return metrics(next(values))

    every = {"validate": validate, "validate_steps": 2}
    result = toy_train(tiny_model, tmp_path, toy_cases(20), epochs=1, **every)
    assert [step for step, _ in result.validations] == [2, 4, 5]  # the last step too
    assert (result.best_step, result.best_score) == (4, 0.9)
    kept = load_file(tmp_path / "out" / "adapter_model.safetensors")
    found = {name.removeprefix("base_model.model."): tensor for name, tensor in kept.items()}
    for name, tensor in seen[1].items():
        assert torch.equal(found[name.replace(".default", "")], tensor)
    assert [row["validation"]["recall@3"] for row in rows(tmp_path) if "validation" in row] == [
        0.2,
        0.9,
        0.5,
    ]


def test_patience_ends_the_run_early(tiny_model: Path, tmp_path: Path):
    values = iter([0.5, 0.5, float("nan"), 0.9])
    result = toy_train(
        tiny_model,
        tmp_path,
        epochs=3,
        validate=lambda _: metrics(next(values)),
        validate_steps=1,
        patience=2,
    )
    assert result.stopped_early
    assert (result.steps, result.best_step) == (3, 1)
    assert next(values) == 0.9
    # asked again, the finished run gives the same without another step
    again = toy_train(
        tiny_model,
        tmp_path,
        epochs=3,
        validate=lambda _: metrics(1.0),
        validate_steps=1,
        patience=2,
    )
    assert again == replace(result, earlier_seconds=result.seconds)


def test_a_validation_without_the_metric_names_those_it_has(tiny_model: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match=r"gives no recall@3, recall@5.* gives auc"):
        toy_train(
            tiny_model,
            tmp_path,
            validate=lambda _: {"auc": 0.5, "recall@10": 1.0},
            validate_steps=1,
        )


def test_no_epochs_train_nothing_and_load_nothing(tmp_path: Path):
    result = toy_train(tmp_path / "no such model", tmp_path, epochs=0)
    assert result.adapter is None
    assert result.steps == 0
    assert list(tmp_path.iterdir()) == []


def test_no_cases_are_refused(tiny_model: Path, tmp_path: Path):
    with pytest.raises(DataError, match="no training cases"):
        toy_train(tiny_model, tmp_path, [])


def test_listwise_needs_something_to_compare(tiny_model: Path, tmp_path: Path):
    cases = [toy_case(0), toy_case(1, candidates=2, relevant=2)]
    with pytest.raises(DataError, match="case train/u1/2: all candidates are relevant"):
        toy_train(tiny_model, tmp_path, cases)
    assert toy_train(tiny_model, tmp_path, cases, loss="answer").steps == 2


def test_a_prompt_that_cannot_fit_names_its_query(tiny_model: Path, tmp_path: Path):
    class Narrow(ToyWriter):
        def rank(self, query: Any) -> Any:
            if "u3" in query.id:
                raise PromptError(f"query {query.id}: does not fit")
            return super().rank(query)

    with pytest.raises(PromptError, match="train/u3/2"):
        toy_train(tiny_model, tmp_path, writer=Narrow())


def test_a_backend_that_cannot_be_trained_is_refused(tiny_model: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match=r"model\.backend: scripted cannot be trained"):
        toy_train(tiny_model, tmp_path, backend="scripted")


def test_no_prefix_is_kept_while_weights_change(tiny_model: Path):
    settings = ModelSettings(name=str(tiny_model), dtype="float32", device="cpu")
    opened, plain = open_trainable(settings, ""), open_model(settings)
    for one in (opened, plain):
        one.score(ToyWriter().rank(toy_case(1).query), ["Yes", "No"])
    assert opened.prefix_cache.tokens == 0 < plain.prefix_cache.tokens


def test_a_loss_that_is_not_finite_names_step_and_case_and_keeps_the_state(
    tiny_model: Path, tmp_path: Path
):
    with pytest.raises(ModelError, match=r"step 2: .*train/u\d+/2 .*learning_rate"):
        toy_train(tiny_model, tmp_path, learning_rate=1e30, checkpoint_steps=1, warmup_steps=0)
    assert list((tmp_path / "state").glob("step-*"))


def test_the_processs_own_draws_and_switches_are_left_alone(tiny_model: Path, tmp_path: Path):
    torch.manual_seed(5)
    random.seed(5)
    expected = torch.rand(3), random.random()
    torch.manual_seed(5)
    random.seed(5)
    toy_train(tiny_model, tmp_path, epochs=1)
    assert torch.equal(torch.rand(3), expected[0])
    assert random.random() == expected[1]
    assert not torch.are_deterministic_algorithms_enabled()


def test_tensorboard_files_stand_beside_the_adapter(tiny_model: Path, tmp_path: Path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    toy_train(tiny_model, tmp_path, trackers=("tensorboard",))
    events = EventAccumulator(str(tmp_path / "out" / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3, 4, 5, 6]


def test_the_real_prompts_are_trained_on_and_shortened_ones_counted(
    tiny_model: Path, tmp_path: Path
):
    writers: list[PromptWriter] = []

    def words(model: Any) -> PromptWriter:
        settings = PromptSettings(domain="generic")
        writers.append(PromptWriter(settings, model.count_tokens, model.context_tokens, 8))
        return writers[-1]

    result = train(
        toy_cases(2),
        model=ModelSettings(name=str(tiny_model), dtype="float32"),
        words=words,
        settings=TrainSettings(**QUICK),
        seed=0,
        out=tmp_path / "out",
        state=tmp_path / "state",
        validate=None,
        progress=Silent(),
    )
    assert result.steps == 2
    assert result.shortened == writers[0].shortened
    assert writers[0].written == 6


# --- Micro-batches count shared prefixes once


ALIKE = 10, 20, 30, 6  # tokens of the instruction, the summary, an item, a candidate's section


def by_hand(items: int, user: int = 0) -> EncodedCase:
    """One target after so many items: two candidates, an answer of one token each."""
    instruction, summary, item, candidate = ALIKE
    begin = 20 + 130 * user
    prefix = (*range(10, 10 + instruction), *range(begin, begin + summary + item * items))
    prompts = [prefix + (280 + place,) * candidate for place in (2 * items, 2 * items + 1)]
    return EncodedCase.of(f"{user}/{items}", prompts, [((7,), (8,))] * 2, [True, False])


def test_shared_prefixes_count_once() -> None:
    cases = [by_hand(items) for items in range(3)]
    # two sequences a target: 10 + 20 + 30 an item before it + 6 + 1
    assert sum(case.tokens for case in cases) == 2 * (37 + 67 + 97)
    assert [case.distinct_tokens for case in cases] == [30 + 14, 60 + 14, 90 + 14]
    (batch,) = batches(cases, 10_000, alone=False)
    assert batch.tokens == 90 + 3 * 14
    (apart,) = batches(cases, 10_000, alone=True)
    assert apart.tokens == 402
    # another user shares the instruction's ten tokens only
    (both,) = batches([*cases, by_hand(1, user=1)], 10_000, alone=False)
    assert both.tokens == 132 + 74 - 10


texts = st.lists(st.integers(0, 2), min_size=1, max_size=6).map(tuple)


@given(
    st.lists(st.lists(texts, min_size=1, max_size=3), min_size=1, max_size=8),
    st.integers(1, 40),
    st.booleans(),
)
def test_batches_keep_the_order_fit_and_count_right(
    drawn: list[Any], most: int, alone: bool
) -> None:
    cases = [
        EncodedCase.of(str(n), prompts, [((3,), (4,))] * len(prompts), [True] * len(prompts))
        for n, prompts in enumerate(drawn)
    ]
    found = list(batches(cases, most, alone=alone))
    assert [case for batch in found for case in batch.cases] == cases
    for batch in found:
        every = [text for case in batch.cases for text in case.texts]
        assert batch.tokens == (sum(map(len, every)) if alone else distinct_tokens(every))
        assert batch.tokens <= most or len(batch.cases) == 1


@given(
    cases=st.integers(1, 50),
    per_step=st.integers(1, 8),
    epochs=st.integers(1, 3),
    seed=st.integers(0, 5),
)
def test_every_epoch_takes_every_case_once(cases: int, per_step: int, epochs: int, seed: int):
    settings = TrainSettings(epochs=epochs, cases_per_step=per_step)
    schedule = Schedule(cases, settings, seed)
    taken: dict[int, list[int]] = {}
    for step in range(1, schedule.steps + 1):
        part = schedule.cases(step)
        assert 1 <= len(part) <= per_step
        taken.setdefault(schedule.epoch(step), []).extend(part)
    assert list(taken) == list(range(epochs))
    assert all(sorted(part) == list(range(cases)) for part in taken.values())


def test_the_order_follows_the_seed_and_the_epoch_and_not_the_way_there():
    settings = TrainSettings(epochs=2, cases_per_step=3)
    forward, backward = Schedule(20, settings, 1), Schedule(20, settings, 1)
    steps = range(1, forward.steps + 1)
    there = {step: forward.cases(step) for step in steps}
    assert there == {step: backward.cases(step) for step in reversed(steps)}
    first = [case for step in range(1, 8) for case in there[step]]
    second = [case for step in range(8, 15) for case in there[step]]
    assert first != second
    assert there[1] != Schedule(20, settings, 2).cases(1)


def test_the_rate_rises_to_its_peak_and_falls_to_just_above_zero():
    settings = TrainSettings(epochs=1, cases_per_step=1, learning_rate=1e-3, warmup_steps=4)
    schedule = Schedule(12, settings, 0)
    rates = [schedule.rate(step) for step in range(1, 13)]
    assert rates[:4] == pytest.approx([0.25e-3, 0.5e-3, 0.75e-3, 1e-3])
    falls = [later - earlier for earlier, later in itertools.pairwise(rates[3:])]
    assert falls == pytest.approx([-1e-3 / 9] * 8)
    assert rates[-1] == pytest.approx(1e-3 / 9)


def test_a_warm_up_longer_than_the_run_never_reaches_the_peak():
    schedule = Schedule(2, TrainSettings(cases_per_step=1, warmup_steps=10), 0)
    assert [schedule.rate(1), schedule.rate(2)] == pytest.approx([1e-5, 2e-5])


# --- The chance loss, and whether a training got below it


SIZES = st.lists(
    st.integers(2, 30).flatmap(lambda size: st.tuples(st.just(size), st.integers(1, size - 1))),
    min_size=1,
    max_size=20,
)


@given(SIZES)
def test_no_model_that_says_the_same_of_all_has_less(cases: list[tuple[int, int]]) -> None:
    answer = chance_loss("answer", cases)
    assert answer is not None
    chances = np.linspace(0.001, 0.999, 999)
    shares = [relevant / size for size, relevant in cases]
    found = np.mean([-(s * np.log(chances) + (1 - s) * np.log(1 - chances)) for s in shares], 0)
    assert answer <= found.min() + 1e-9
    assert found.min() - answer < 1e-3


@given(SIZES)
def test_equal_scores_give_the_lists_loss(cases: list[tuple[int, int]]) -> None:
    equal = [-np.log(np.full(size, 1 / size))[:relevant].mean() for size, relevant in cases]
    assert chance_loss("listwise", cases) == pytest.approx(np.mean(equal))


def test_known_chance_losses() -> None:
    assert chance_loss("listwise", [(5, 1)]) == pytest.approx(math.log(5))
    assert chance_loss("answer", [(5, 1)]) == pytest.approx(0.5004, abs=1e-4)
    assert chance_loss("answer", [(3, 3)]) == 0
    assert chance_loss("text", [(5, 1)]) is None
    assert chance_loss("listwise", []) is None


def test_late_steps_are_the_last_fifth_where_there_are_enough() -> None:
    assert late_loss([2.0] * 24) is None
    assert late_loss([2.0] * 20 + [1.0] * 5) == 1.0
    assert late_loss([2.0] * 60 + [1.0] * 15) == 1.0


@pytest.mark.parametrize(
    ("late", "chance", "expected"),
    [(1.54, 1.61, True), (1.33, 1.61, False), (None, 1.61, False), (1.6, None, False)],
)
def test_only_a_late_loss_near_chance_means_hardly_converged(
    late: float | None, chance: float | None, expected: bool
) -> None:
    assert hardly_converged(late, chance) is expected
