"""The worker that unpacks an exported server: a stand-alone program, run as
`python unpack/exported/__main__.py JOB`.
"""
