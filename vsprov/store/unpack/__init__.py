"""The worker that unpacks an archive: a stand-alone program, run as `python unpack/__main__.py worker JOB`.

It imports the standard library, and zstandard for archives that need it. Of vsprov it imports itself and
`vsprov.store.trees.acl`, which imports as little.
"""
