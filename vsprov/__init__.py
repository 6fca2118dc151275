"""vsprov: a declarative provisioner of Linux virtual servers."""

__version__ = "0.1.0"
