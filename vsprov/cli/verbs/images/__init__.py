"""Verbs about images and their store."""
