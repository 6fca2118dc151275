"""One module per kernel object. The modules import only `syscall` and `proc` of each other."""
