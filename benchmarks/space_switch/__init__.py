"""A change of embedding space on a service under load, its filling killed again and again, and back."""
