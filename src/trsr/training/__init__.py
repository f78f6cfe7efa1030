"""LoRA fine-tuning of the yes/no ranker: cases in, an adapter in PEFT's own format out."""

from trsr.training.curves import chance_loss, hardly_converged, late_loss
from trsr.training.fit import TrainResult, train

__all__ = ["TrainResult", "chance_loss", "hardly_converged", "late_loss", "train"]
