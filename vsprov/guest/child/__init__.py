"""The list of system calls that a child makes between clone and execve; nothing here runs in the child."""
