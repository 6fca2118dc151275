"""vsprov: a declarative provisioner of Linux virtual servers."""

import os

__version__ = "0.2.0.dev0"
PACKAGE = os.path.dirname(os.path.abspath(__file__))  # the folder of this file
