"""How the inits of servers ended: read from the kernel, and recorded."""
