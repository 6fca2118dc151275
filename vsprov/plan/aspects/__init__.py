"""Live aspects: what of a running server the kernel shows, and what can be changed while it runs.

An aspect is one module here, which says what is wanted, what was seen and what differs, with its cost and its
step, and one module of the same name in `engine.aspects`, which observes and changes the running server.
Every module here is imported with the package.
"""

from vsprov.model.discover import import_all

import_all(__name__, __path__)
