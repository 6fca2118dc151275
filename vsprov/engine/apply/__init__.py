"""Carrying out plans: the steps, and what a crash left of an earlier run."""
