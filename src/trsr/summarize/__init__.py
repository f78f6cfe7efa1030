"""Room: summarize."""
