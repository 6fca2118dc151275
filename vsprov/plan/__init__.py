"""Make plans from wanted and observed objects: pure functions over frozen values."""
