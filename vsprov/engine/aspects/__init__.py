"""Live aspects on the running server: a module for each, which observes it and carries out its steps.

`plan.aspects` has the module of the same name that says what is wanted. Every module here is imported with
the package; an aspect without an observer raises then.
"""

from vsprov.engine.aspects.observer import refuse_missing
from vsprov.model.discover import import_all

import_all(__name__, __path__)
refuse_missing()
