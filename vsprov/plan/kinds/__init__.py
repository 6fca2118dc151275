"""How each kind of object is planned: a module for each, whose row `planner.register` takes.

Every module here is imported with the package; a kind of the model without a row raises then.
"""

from vsprov.model.discover import import_all
from vsprov.plan.kinds.planner import ordered, refuse_missing

import_all(__name__, __path__)
refuse_missing()

__all__ = ["ordered"]
