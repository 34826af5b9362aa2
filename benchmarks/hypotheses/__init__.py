"""Knowing when to ask, and asking what matters: measured on public data, by the code the service runs."""
