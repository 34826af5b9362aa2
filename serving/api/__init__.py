"""The HTTP side of a model server."""
