"""Actions on servers that no plan is needed for: signals, freezing, waiting."""
