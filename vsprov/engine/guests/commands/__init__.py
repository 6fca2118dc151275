"""Running commands in servers: joining, terminals and streams."""
