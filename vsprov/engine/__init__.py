"""Observe, plan, apply, observe again: the only part that changes the world."""
