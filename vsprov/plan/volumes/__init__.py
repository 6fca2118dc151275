"""Planning of volumes: what exists, what changes, which servers mount them. Loaded only if there are any."""
