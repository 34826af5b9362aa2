"""Background jobs: added with what they belong to, done by any number of workers, each once at a time."""
