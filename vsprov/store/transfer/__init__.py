"""Servers as archives, to carry them to other hosts: `vsprov.store.unpack.exported.layout`."""
