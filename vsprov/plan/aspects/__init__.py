"""Live aspects: properties of a running server that can be read from the kernel and changed in place.

An aspect is one module here, which compares the wanted with the observed value and plans the steps, and one
module of the same name in `engine.aspects`, which observes and changes the running server. Importing the
package imports every module in it.
"""

from vsprov.model.discover import import_all

import_all(__name__, __path__)
