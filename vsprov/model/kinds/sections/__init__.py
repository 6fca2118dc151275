"""The sections of a server's spec, one module each."""
