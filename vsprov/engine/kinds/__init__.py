"""How to observe and show each kind of object: one module per kind, which registers a `KindView`.

Importing the package imports every module in it. It raises TypeError if a kind of the model has no view.
"""

from vsprov.engine.kinds.view import VIEWS
from vsprov.model.discover import import_all
from vsprov.model.objects import require_rows

import_all(__name__, __path__)
require_rows(VIEWS, __name__)
