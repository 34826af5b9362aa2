"""Simulated users over many sessions: what the service learns of them, against the same service that learns nothing."""
