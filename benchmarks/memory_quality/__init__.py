"""Memory that is right, measured on public data and on generated histories."""
