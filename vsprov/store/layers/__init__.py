"""Layers: making, checking and deduplicating them."""
