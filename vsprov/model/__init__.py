"""The values vsprov works with: pure data, no I/O, no kernel."""
