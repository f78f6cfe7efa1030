"""The settings of training: of the ranking model, and of the summarizing one."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from trsr.settings import Settings

SELECTED_ON = ("recall@3", "recall@5", "recall@10")
"""The best adapter has the highest sum of these on the validation cases, as in the paper."""


class TrainSettings(Settings):
    """LoRA fine-tuning of the yes/no ranker, and of the model that writes titles."""

    loss: Literal["answer", "listwise", "text"] = Field(
        "answer",
        description="answer: cross-entropy of the answer's tokens; listwise: softmax over the "
        "user's candidates of the yes-minus-no scores; text: every token (paper). Titles are "
        "learned by answer",
    )
    seed: int | None = Field(
        None,
        ge=0,
        description="seeds training alone, of the model and of sequential rankers, so that several "
        "trainings share all else; left out: run.seed",
    )
    epochs: int = Field(1, ge=0, description="passes over the training cases; 0 trains nothing")
    learning_rate: float = Field(1e-4, gt=0, description="AdamW's peak rate (paper: 1e-4)")
    warmup_steps: int = Field(10, ge=0, description="steps of rising rate before the linear decay")
    cases_per_step: int = Field(
        4, ge=1, description="cases (a positive and its negatives) an optimizer step"
    )
    weight_decay: float = Field(5e-4, ge=0, description="AdamW's weight decay (paper: 5e-4)")
    rank: int = Field(8, ge=1, description="LoRA rank (paper: 8)")
    alpha: int = Field(16, ge=1, description="LoRA alpha (paper: 16)")
    dropout: float = Field(0.05, ge=0, lt=1, description="LoRA dropout (paper: 0.05)")
    targets: tuple[str, ...] = Field(
        ("q_proj", "k_proj", "v_proj", "o_proj"), description="the layers that LoRA adapts"
    )
    upper_layers: int = Field(
        0,
        ge=0,
        description="adapt this many of the topmost layers; 0: all. The backward pass then stops "
        "there, and with several epochs on a CPU the activations below are cached on disk",
    )
    checkpoint_steps: int = Field(
        25, ge=1, description="steps between resumable states; slow steps: a minute"
    )
    validate_steps: int = Field(
        0, ge=0, description="steps between validations by ranking; 0: none, the last is kept"
    )
    patience: int = Field(
        0, ge=0, description="stop after this many validations without a better one; 0: never"
    )
    start: Path | None = Field(
        None,
        description="a finished run whose ranker the training goes on from, such as yesterday's; "
        "left out: from the base model. With prompts.item_vectors, on the same cases: a ranker of "
        "texts is followed; of one of vectors the items' vectors stay as they are, and the last of "
        "the three trainings alone is made",
    )
    gradient_checkpointing: bool = Field(False, description="spend time to save memory on a GPU")
    trackers: tuple[Literal["tensorboard", "mlflow", "wandb"], ...] = Field(
        (), description="also send the curves there (curves.jsonl is always kept)"
    )

    def meaning(self) -> dict[str, Any]:
        """What the adapter depends on, as plain values; `start` counts by its weights."""
        return self.model_dump(mode="json", exclude={"checkpoint_steps", "start"})

    @property
    def for_titles(self) -> TrainSettings:
        """The same for a model that writes titles: it learns their tokens, and is not validated."""
        own = {"loss": "answer", "validate_steps": 0, "patience": 0, "trackers": ()}
        return self.model_copy(update=own)


Phase = Literal["csft", "mntp", "contrast"]
PHASES: tuple[Phase, ...] = ("csft", "mntp", "contrast")


class EncodeSettings(Settings):
    """An item encoder made of a language model (LLM2Rec), by LoRA on all linear layers."""

    phases: tuple[Phase, ...] = Field(
        PHASES,
        description="csft: learn which title follows others; mntp: fill in masked tokens, reading "
        "in both directions; contrast: tell an item from others. Each may be left out",
    )
    csft_steps: int = Field(250, ge=1, description="steps of 8 next titles (paper: 10,000 of 128)")
    mntp_steps: int = Field(300, ge=1, description="steps of 32 texts (paper: 1,000 of 32)")
    contrast_steps: int = Field(
        200, ge=1, description="steps of batch_size texts (paper: 1,000 of 256)"
    )
    batch_size: int = Field(
        64, ge=2, description="contrast: texts a step; each differs from the others"
    )

    @field_validator("phases", mode="after")
    @classmethod
    def _in_order(cls, value: tuple[Phase, ...]) -> tuple[Phase, ...]:
        """The paper's order, whatever order they are named in."""
        if len(set(value)) < len(value):
            raise ValueError("a phase stands twice")
        return tuple(phase for phase in PHASES if phase in value)


class TuneSummarizerSettings(Settings):
    """Fine-tuning of the summarizing model on its own best summaries (`trsr tune-summarizer`)."""

    users: int = Field(
        200, ge=1, description="training users whose histories are summarized, one case of each"
    )
    samples: int = Field(8, ge=1, description="summaries sampled of each history")
    epochs: int = Field(2, ge=1, description="passes over the selected texts")
    learning_rate: float = Field(2e-4, gt=0, description="AdamW's peak rate")

    def training(self, ranking: TrainSettings) -> TrainSettings:
        """The settings of the training; LoRA's shape is that of the ranking model's."""
        return TrainSettings(
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            warmup_steps=5,
            cases_per_step=8,
            rank=ranking.rank,
            alpha=ranking.alpha,
            dropout=0.0,
            targets=ranking.targets,
        )
