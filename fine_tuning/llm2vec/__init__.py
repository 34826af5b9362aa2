"""One checkpoint that talks and embeds: trained, exported with its manifest and a wrapper that loads it."""
