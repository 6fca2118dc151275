"""From what is wanted and what is there to what has to be done: pure functions over frozen values."""
