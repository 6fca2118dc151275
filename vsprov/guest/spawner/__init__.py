"""The spawner: a process that creates guests for its clients."""
