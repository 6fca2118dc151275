"""Layers: making, verifying and deduplicating them."""
