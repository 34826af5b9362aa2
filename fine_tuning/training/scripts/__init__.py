"""One page each: what is run, its flags, one call."""
