"""The function, not the way it is written: networks in a notation that can be rewritten, and their canonical form.

``form`` the notation · ``lift`` from a model to it · ``lower`` back to ordinary layers · ``algebra`` products and sums
of maps · ``bounds`` between which numbers units lie · ``readers`` who reads which unit · ``affine``, ``units``,
``gadgets``, ``attention`` the steps to canonical form · ``canonize`` all of them, with a log.
"""

from backlight.canonical.canonize import Canonical, Step, canonize, intervals
from backlight.canonical.form import Form
from backlight.canonical.lift import lift
from backlight.canonical.lower import lower

__all__ = ["Canonical", "Form", "Step", "canonize", "intervals", "lift", "lower"]
