"""How to plan each kind of object: one module per kind, which registers a `KindPlanner`.

Importing the package imports every module in it. It raises TypeError if a kind of the model has no planner.
"""

from vsprov.model.discover import import_all
from vsprov.model.objects import require_rows
from vsprov.plan.kinds.planner import PLANNERS

import_all(__name__, __path__)
require_rows(PLANNERS, __name__)
