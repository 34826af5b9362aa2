"""Stretches of a text."""

Span = tuple[int, int]
"""Where a stretch starts and ends, as of a slice."""
