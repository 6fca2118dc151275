"""Files and directories that survive a crash."""
