"""The functions that carry out steps, one for each class of steps.

A function that has to wait is a generator and yields to the scheduler. All steps are idempotent: after an
interrupted apply, the next one plans from what it finds. Importing the package imports every module in it.
"""

from vsprov.model.discover import import_all

import_all(__name__, __path__)
