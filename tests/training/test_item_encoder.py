"""LLM2Rec's three phases on tiny models: what each learns from, what it learns, and going on."""

from __future__ import annotations

import dataclasses
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import tiny_network

torch = pytest.importorskip("torch")

from trsr.errors import DataError, ModelError  # noqa: E402
from trsr.models import ModelSettings, open_model  # noqa: E402
from trsr.models.encoders import SentenceEncoder, check_bidirectional  # noqa: E402
from trsr.progress import Silent  # noqa: E402
from trsr.training import item_encoder  # noqa: E402
from trsr.training.encode import EncodedCase  # noqa: E402
from trsr.training.item_encoder import (  # noqa: E402
    bidirectional_decoder,
    contrast_loss,
    draws,
    mask_token,
    masked_token_loss,
    mean_states,
    plain_tokenizer,
    train_item_encoder,
)
from trsr.training.settings import EncodeSettings  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

TITLES = list("bgjkqvwzxfhc")
"""Two clusters of titles that have no token in common."""
TEXTS = [f"a film {title}" for title in TITLES]


def cases(*texts: tuple[int, ...]) -> list[EncodedCase]:
    return [EncodedCase.of(str(n), [text], [((), ())], [True]) for n, text in enumerate(texts)]


def trained(model: Path, folder: Path, sequences: Any = (), texts: Any = TEXTS, **own: Any) -> Any:
    """Trains an encoder into `folder / "encoder"`; what each phase did."""
    progress, tokens = own.pop("progress", Silent()), own.pop("batch_tokens", 8192)
    steps = {"csft_steps": 2, "mntp_steps": 2, "contrast_steps": 2, "batch_size": 4}
    return train_item_encoder(
        sequences,
        texts,
        model=ModelSettings(name=str(model), dtype="float32", device="cpu", batch_tokens=tokens),
        settings=EncodeSettings(**{**steps, **own}),
        seed=3,
        out=folder / "encoder",
        state=folder / "state",
        progress=progress,
    )


def told_by_the_right(count: int, rng: np.random.Generator) -> list[tuple[int, ...]]:
    """Texts of three tokens whose middle one follows from the last one alone, of eight."""
    return [
        (60 + int(rng.integers(8)), 70 + int(b), 80 + int(b)) for b in rng.integers(8, size=count)
    ]


@pytest.mark.parametrize("both", [True, False])
def test_a_token_told_by_its_right_neighbour_is_learned_only_by_bidirectional_decoder(
    both: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(
        item_encoder,
        "_hidden",
        lambda texts, _: torch.tensor([[0, 1, 0]]).bool().repeat(len(texts), 1),
    )
    network = tiny_network(width=32).train()
    decoder = bidirectional_decoder(network)
    decoder.config.is_causal = not both
    loss = masked_token_loss(decoder, 5, frozenset())
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    rng = np.random.default_rng(0)
    late = []
    for step in range(150):
        value = loss(network, cases(*told_by_the_right(32, rng)), 10_000).mean()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        late += [value.item()] if step >= 130 else []
    if both:
        assert np.mean(late) < 0.1
    else:
        assert np.mean(late) == pytest.approx(math.log(8), abs=0.15)


def test_the_masked_loss_sees_what_is_right_of_a_mask_and_not_what_it_hides(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(
        item_encoder, "_hidden", lambda texts, _: torch.tensor([[False, True, False, False]])
    )
    network = tiny_network()
    decoder = bidirectional_decoder(network)
    read: list[Any] = []
    decoder.register_forward_pre_hook(
        lambda module, args, given: read.append(given["input_ids"]), with_kwargs=True
    )
    loss = masked_token_loss(decoder, 5, frozenset())
    one, right, hidden = (
        loss(network, cases(text), 100)[0].item()
        for text in ((10, 11, 12, 13), (10, 11, 12, 14), (10, 99, 12, 13))
    )
    assert one != pytest.approx(right, abs=1e-3)
    assert torch.equal(read[0], read[2])  # another target, the same input
    assert not torch.equal(read[0], read[1])
    # the state before the place predicts it
    with torch.no_grad():
        logits = network(torch.tensor([[10, 5, 12, 13]])).logits[0, 0]
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor(11))
    assert one == pytest.approx(float(expected), abs=1e-4)
    assert hidden == pytest.approx(
        float(torch.nn.functional.cross_entropy(logits, torch.tensor(99))), abs=1e-4
    )


def test_masks_leave_the_first_and_special_tokens_and_hide_one_at_least():
    for seed in range(50):
        torch.manual_seed(seed)
        found = item_encoder._hidden([(1, 7, 7, 2), (7, 8)], frozenset({1, 2}))
        assert found.any(1).all()
        assert not found[:, 0].any()
        assert not found[0, 3]
        assert not found[1, 2:].any()


def test_csft_learns_from_the_next_title_and_the_end_alone(tiny_model: Path, tmp_path: Path):
    found = trained(tiny_model, tmp_path, [TITLES[:3]], phases=["csft"], csft_steps=1)
    opened = open_model(ModelSettings(name=str(tiny_model), dtype="float32", device="cpu"))
    tokenizer = plain_tokenizer(tiny_model)
    losses = []
    for at in (1, 2):  # a step takes each once
        shown = [token for text in TITLES[:at] for token in tokenizer.encode(f"{text}\n")]
        answer = [*tokenizer.encode(f"{TITLES[at]}\n"), tokenizer.eos_token_id]
        with torch.no_grad():
            logits = opened.network(torch.tensor([shown + answer])).logits[0, len(shown) - 1 : -1]
        losses.append(float(torch.nn.functional.cross_entropy(logits, torch.tensor(answer))))
    assert found["csft"].first_loss == pytest.approx(np.mean(losses), abs=1e-3)


def test_equal_vectors_cost_the_logarithm_of_the_batch():
    class Flat:
        device = torch.device("cpu")

        def __call__(self, input_ids: Any, **_: Any) -> Any:
            states = torch.ones(*input_ids.shape, 4)
            return type("Output", (), {"last_hidden_state": states})

    found = contrast_loss(Flat())(None, cases(*((n, n + 1) for n in range(16))), 0)
    assert found.tolist() == pytest.approx([math.log(16)] * 16, abs=1e-5)


def test_a_batch_in_parts_has_the_gradients_of_the_whole(
    monkeypatch: pytest.MonkeyPatch,
):
    network = tiny_network()
    decoder = bidirectional_decoder(network)
    asked = cases(*((n + 5, *range(7, 7 + n % 3), 9) for n in range(12)))
    sizes: list[int] = []
    decoder.layers[0].register_forward_hook(lambda module, args, out: sizes.append(len(args[0])))
    found = []
    for tokens in (2048, 8):
        monkeypatch.setattr(item_encoder, "PART_TOKENS", tokens)
        network.zero_grad()
        contrast_loss(decoder)(network, asked, 0).mean().backward()
        found.append(
            {name: one.grad for name, one in network.named_parameters() if one.grad is not None}
        )
    assert max(sizes[:2]) == 12
    assert max(sizes[2:]) == 2
    for name, whole in found[0].items():
        torch.testing.assert_close(found[1][name], whole, rtol=1e-4, atol=1e-6)


def test_no_text_stands_twice_in_a_batch_and_all_come_before_any_again():
    found = np.array(draws(10, 6, 4, seed=1)).reshape(6, 4)
    assert all(len(set(row)) == 4 for row in found)
    for epoch in range(3):
        assert len(set(found[2 * epoch : 2 * epoch + 2].ravel())) == 8
    assert len(draws(3, 5, 3, seed=1)) == 15


def test_contrast_raises_the_rank_of_an_items_own_second_view(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(item_encoder._RATE, "contrast", 1e-2)
    texts = [
        f"{a} {b}" for a in ("bolt", "film", "sea", "user") for b in ("ten", "mm", "quiet", "x")
    ]

    def rank_of_own(adapter: Path | None) -> float:
        from trsr.models.hf.load import load_network

        settings = ModelSettings(name=str(tiny_model), dtype="float32", device="cpu")
        network = load_network(settings, tiny_model, adapter, torch.device("cpu"))
        decoder = bidirectional_decoder(network)
        # noise in place of LoRA's dropout, the same before and after
        decoder.layers[0].register_forward_pre_hook(
            lambda module, args: (args[0] + 0.1 * torch.randn_like(args[0]), *args[1:])
        )
        tokens = [tuple(plain_tokenizer(tiny_model).encode(text)) for text in texts]
        torch.manual_seed(0)
        hits = []
        with torch.no_grad():
            for _ in range(10):
                one, two = (
                    torch.nn.functional.normalize(mean_states(decoder, tokens), dim=1)
                    for _ in range(2)
                )
                cosines = one @ two.T
                hits.append((cosines >= cosines.diagonal()[:, None]).sum(1).double().mean())
        return float(torch.stack(hits).mean())

    found = trained(
        tiny_model, tmp_path, texts=texts, phases=["contrast"], contrast_steps=40, batch_size=16
    )
    assert found["contrast"].last_loss < found["contrast"].first_loss
    assert found["contrast"].rank > found["base"].rank  # they spread
    adapter = tmp_path / "state" / "contrast" / "adapter"
    assert rank_of_own(adapter) < rank_of_own(None) - 1


def same_cluster_auc(folder: Path) -> float:
    """How likely a pair of one cluster is nearer than a pair of two."""
    vectors = SentenceEncoder(str(folder)).encode(TITLES)
    cosines = vectors @ vectors.T
    cluster = np.arange(len(TITLES)) * 2 // len(TITLES)
    same = cluster[:, None] == cluster
    above = np.triu(np.ones_like(same), 1)
    return float(np.mean(cosines[same & above][:, None] > cosines[~same & above][None]))


def planted(shuffled: bool) -> list[list[str]]:
    """Users who stay in a cluster; shuffled, the same titles dealt to users at random."""
    rng = np.random.default_rng(5)
    half = len(TITLES) // 2
    sequences = [
        [TITLES[half * (user % 2) + int(n)] for n in rng.permutation(half)[:4]]
        for user in range(80)
    ]
    if shuffled:
        every = rng.permutation([title for own in sequences for title in own])
        sequences = [every[at : at + 4].tolist() for at in range(0, len(every), 4)]
    return sequences


def test_titles_that_stand_together_come_together_and_shuffled_ones_do_not(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(item_encoder._RATE, "csft", 1e-2)  # a random model has far to go
    monkeypatch.setattr(item_encoder, "_SHOWN", 1)
    own = {"csft_steps": 80, "phases": ["csft"]}
    trained(tiny_model, tmp_path / "base", phases=[])
    trained(tiny_model, tmp_path / "real", planted(shuffled=False), **own)
    trained(tiny_model, tmp_path / "shuffled", planted(shuffled=True), **own)
    base, real, shuffled = (
        same_cluster_auc(tmp_path / name / "encoder") for name in ("base", "real", "shuffled")
    )
    assert real > 0.7
    assert max(base, shuffled) < 0.55


class StoppedError(Exception):
    pass


class StopsAt:
    """A bar that stops the work at its n-th step."""

    def __init__(self, at: int) -> None:
        self.left = at
        self.units: list[Any] = []

    def begin(self, total: Any, unit: str) -> None:
        self.units.append((total, unit))

    def advance(self, steps: int = 1, note: str = "") -> None:
        self.left -= steps if not note.startswith("resuming") else 0
        if self.left <= 0:
            raise StoppedError


def test_a_training_that_is_stopped_anywhere_goes_on_to_the_same_encoder(
    tiny_model: Path, tmp_path: Path
):
    sequences = planted(shuffled=False)
    trained(tiny_model, tmp_path / "whole", sequences)
    for at in (1, 3, 3):  # within each of the phases
        with pytest.raises(StoppedError):
            trained(tiny_model, tmp_path / "stopped", sequences, progress=StopsAt(at))
    bar = StopsAt(100)
    trained(tiny_model, tmp_path / "stopped", sequences, progress=bar)
    assert bar.units == [(2, f"{name} steps") for name in ("csft", "mntp", "contrast")]
    whole, stopped = (
        (tmp_path / name / "encoder" / "model.safetensors").read_bytes()
        for name in ("whole", "stopped")
    )
    assert whole == stopped


def test_the_folder_is_opened_by_sentence_transformers_alone_and_reads_both_ways(
    tiny_model: Path, tmp_path: Path
):
    from sentence_transformers import SentenceTransformer

    found = trained(tiny_model, tmp_path, planted(shuffled=False))
    assert {*found} == {"base", "csft", "mntp", "contrast"}
    plain = SentenceTransformer(str(tmp_path / "encoder"), device="cpu")
    network = open_model(
        ModelSettings(name=str(tiny_model), dtype="float32", device="cpu"),
        tmp_path / "state" / "contrast" / "adapter",
    ).network
    texts = ["a new item that nobody has seen", "ten <|im_end|> x"]  # a mark is letters like others
    tokens = [tuple(plain_tokenizer(tiny_model).encode(text)) for text in texts]
    with torch.no_grad():
        expected = mean_states(bidirectional_decoder(network), tokens).numpy()
    assert plain.encode(texts) == pytest.approx(expected, abs=1e-4)
    one, other = plain.encode(["bolt bolt bolt", "bolt bolt x"], output_value="token_embeddings")
    assert not torch.allclose(one[0], other[0])


def test_each_phase_can_be_left_out(tiny_model: Path, tmp_path: Path):
    assert trained(tiny_model, tmp_path / "none", phases=[]) == {}
    found = trained(tiny_model, tmp_path / "two", phases=["contrast", "mntp"])
    assert [*found] == ["base", "mntp", "contrast"]


def test_what_cannot_be_learned_from_is_refused_and_few_is_said(
    tiny_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    with pytest.raises(DataError, match="csft: no user has two training interactions"):
        trained(tiny_model, tmp_path / "a", [["x"], []], phases=["csft"])
    with pytest.raises(DataError, match="takes 4 different texts, and the items have 2: set enc"):
        trained(tiny_model, tmp_path / "b", texts=["x y", "x z", "x y"], phases=["contrast"])
    with pytest.raises(DataError, match="mntp: no item's text has two tokens"):
        trained(tiny_model, tmp_path / "c", texts=["x"], phases=["mntp"])
    with caplog.at_level(logging.WARNING):
        trained(tiny_model, tmp_path / "d", [TITLES, ["x"]], phases=["csft", "contrast"])
    assert "1 users have fewer than two training interactions" in caplog.text
    assert "12 different texts are few" in caplog.text


def test_a_model_that_reads_in_one_direction_is_refused_with_those_that_can(
    tiny_model: Path, tmp_path: Path
):
    network = tiny_network()
    with pytest.raises(ModelError, match=r"LlamaModel reads from left to right .* Qwen 2 and 3"):
        check_bidirectional(network.model)
    trained(tiny_model, tmp_path, phases=[])
    encoder = SentenceEncoder(str(tmp_path / "encoder"))
    library = encoder._opened()
    library[0].auto_model.config.is_causal = True
    encoder._opened = lambda: library  # type: ignore[method-assign]
    with pytest.raises(ModelError, match="reads from left to right"):
        encoder.encode(["x"])


def test_a_mask_is_one_token_or_none():
    class Long:
        mask_token_id = None

        def __call__(self, text: str, **_: Any) -> Any:
            return {"input_ids": [1, 2]}

    with pytest.raises(ModelError, match="writes an underscore as 2 tokens"):
        mask_token(Long())
    assert mask_token(type("Own", (), {"mask_token_id": 7})) == 7


def test_phases_stand_in_the_papers_order_and_once():
    assert EncodeSettings(phases=("contrast", "csft")).phases == ("csft", "contrast")
    with pytest.raises(ValueError, match="stands twice"):
        EncodeSettings(phases=("csft", "csft"))
    assert dataclasses.is_dataclass(item_encoder.PhaseResult)
