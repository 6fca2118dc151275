"""Observe, plan, apply, observe again: the only layer that changes the host."""
