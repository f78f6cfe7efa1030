"""LoRA fine-tuning of the yes/no ranker: cases in, an adapter in PEFT's own format out."""

from trsr.train.fit import train
from trsr.train.guessing import guess_loss, hardly_learned, late_loss
from trsr.train.result import TrainResult

__all__ = ["TrainResult", "guess_loss", "hardly_learned", "late_loss", "train"]
