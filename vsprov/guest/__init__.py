"""Programs of their own, run as `python -I -S guest/main.py`: the spawner, and the one that joins a
server.

Only the standard library, and little of that: every fork copies the page tables of all that is imported.
"""
