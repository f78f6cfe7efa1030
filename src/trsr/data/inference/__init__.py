"""Guesses columns, formats and texts of files that nobody described."""
