"""The worker that copies files out of a server and into one, as tar archives: a stand-alone program, run as
`python unpack/__main__.py files.worker JOB`.
"""
