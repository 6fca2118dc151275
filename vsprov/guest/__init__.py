"""The spawner: a program of its own, run as `python -I -S spawner.py`, that becomes every server's init.

Standard library only, and little of it: what it imports is copied, page table by page table, at every fork.
"""
