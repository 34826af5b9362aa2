"""What search costs with a million memories, and what it finds: see `__main__`."""
