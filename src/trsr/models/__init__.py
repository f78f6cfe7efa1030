"""Language models: the protocols, the backends, the token tree. Knows no users and no items."""

from trsr.models.base import LanguageModel, Sampling, ScoringModel, TextScoringModel
from trsr.models.settings import ModelSettings, open_model

__all__ = [
    "LanguageModel",
    "ModelSettings",
    "Sampling",
    "ScoringModel",
    "TextScoringModel",
    "open_model",
]
