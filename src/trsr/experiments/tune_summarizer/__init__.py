"""Fine-tunes the summarizing model for what its summaries are for: to tell what comes next."""

from trsr.experiments.tune_summarizer.tuning import TunedSummarizer, tune_summarizer

__all__ = ["TunedSummarizer", "tune_summarizer"]
