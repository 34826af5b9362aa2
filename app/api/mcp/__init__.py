"""The Model Context Protocol: the same use cases as tools that assistants call. Importing this package loads no SDK."""
