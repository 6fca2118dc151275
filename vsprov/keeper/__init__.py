"""The keeper: one process per instance that drains the consoles of servers and sees them end.

A program of its own, which uses only the standard library; see `main` and `protocol`.
"""
