"""YAML text to plain values with positions, and back."""
