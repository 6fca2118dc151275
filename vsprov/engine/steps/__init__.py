"""Carrying out steps: one function for each class of step, which makes true what the step says.

A function that has to wait is a generator and yields to the scheduler. All can be done again safely: an apply
that died is followed by one that plans from what it finds. Every module here is imported with the package.
"""

from vsprov.model.discover import import_all

import_all(__name__, __path__)
