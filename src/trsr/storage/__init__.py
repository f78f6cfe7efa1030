"""What is kept on disk: the run directory and every answer of a language model."""
