"""One set of weights that talks and embeds: what its folder says of itself, and the service of it."""
