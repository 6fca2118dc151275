"""How to observe and show each kind of object: one module per kind, which registers a `KindView`.

Importing the package imports every module in it. It raises TypeError if a kind of the model has no view.
"""

from vsprov.engine.kinds.view import refuse_missing
from vsprov.model.discover import import_all

import_all(__name__, __path__)
refuse_missing()
