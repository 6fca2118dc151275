"""One module per kernel object; they import each other only through `syscall` and `proc`."""
