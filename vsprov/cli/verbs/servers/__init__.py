"""Verbs about single servers: their processes, their output, whether they run."""
