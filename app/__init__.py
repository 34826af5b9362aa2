"""Embed Service: personalisation middleware for chat frontends."""

VERSION = "0.1.0"
