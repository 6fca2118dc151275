"""Verbs about the files of servers."""
