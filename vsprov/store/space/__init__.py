"""What limits how much a server writes: the backends of `disk`."""
