"""Trees of files, which may be hostile: walks, copies, limits, access control lists."""
