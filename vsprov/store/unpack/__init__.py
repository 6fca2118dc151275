"""The worker that unpacks an archive: a program of its own, run as `python unpack/__main__.py JOB`.

Standard library only, and zstandard for archives that need it; nothing of vsprov is imported.
"""
