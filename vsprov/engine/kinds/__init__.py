"""How each kind of object is looked at: a module for each, whose row `view.register` takes.

Every module here is imported with the package; a kind of the model without a row raises then.
"""

from vsprov.engine.kinds.view import refuse_missing
from vsprov.model.discover import import_all

import_all(__name__, __path__)
refuse_missing()
