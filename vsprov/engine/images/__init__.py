"""Bringing images into the store, and building them."""
