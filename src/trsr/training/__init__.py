"""LoRA fine-tuning of the yes/no ranker: cases in, an adapter in PEFT's own format out."""

from trsr.training.fit import TrainResult, train
from trsr.training.trackers import JUDGED, chance_loss, hardly_converged, late_loss

__all__ = ["JUDGED", "TrainResult", "chance_loss", "hardly_converged", "late_loss", "train"]
