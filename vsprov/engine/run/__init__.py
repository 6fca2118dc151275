"""The parts of a running command: lock, threads, spawner, scheduler, shared state."""
