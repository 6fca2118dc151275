"""What this host and everything of an instance is now."""
