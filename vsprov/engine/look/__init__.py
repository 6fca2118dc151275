"""Observe the host and the objects of an instance. Read-only."""
