"""Importing and building images."""
