"""Live aspects of running servers: one module per aspect, which observes it and carries out its steps.

The module of the same name in `plan.aspects` plans the changes. Importing the package imports every module in
it. It raises TypeError if an aspect has no observer.
"""

from vsprov.engine.aspects.observer import refuse_missing
from vsprov.model.discover import import_all

import_all(__name__, __path__)
refuse_missing()
