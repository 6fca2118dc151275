"""Servers as archives: export and import."""
