"""Readers: files in the formats that people have, as columns."""
