"""From files and options to what an apply is asked for: manifests, the lock file, sets, saved plans."""
