"""What a running command holds: its lock, its threads, its spawner, its schedule of steps."""
