"""Scores prompts that share beginnings: each distinct token is computed once."""
