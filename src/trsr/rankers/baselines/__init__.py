"""Rankers without a language model or a trained network."""
