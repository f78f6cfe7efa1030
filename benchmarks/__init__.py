"""Benches, peers and our own results: beside the package, and no part of its wheel."""
