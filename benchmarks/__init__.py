"""Benches, peers and our own results: beside the package, and no part of its wheel.

Each bench times one part of trsr beside the plain way to do it, in one run.
"""
