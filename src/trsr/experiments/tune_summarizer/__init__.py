"""Fine-tunes the summarizing model on its own summaries that predict the next item best."""

from trsr.experiments.tune_summarizer.tuning import TunedSummarizer, tune_summarizer

__all__ = ["TunedSummarizer", "tune_summarizer"]
