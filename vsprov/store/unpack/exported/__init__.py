"""The worker that unpacks an exported server: a stand-alone program, run as
`python unpack/__main__.py exported.worker JOB`.
"""
