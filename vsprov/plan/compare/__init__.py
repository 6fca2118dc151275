"""What was applied, what is wanted, what was observed: the differences, key by key, and their costs."""
