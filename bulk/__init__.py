"""Bulk work as Ray Data jobs, on one machine or a cluster: `python -m bulk`.

It stands on `app`, which does not know it. Ray is imported in functions.
"""
