"""What stands in for a feature that is taken away: one object for explainers and for judges.

Most published rankings of explanations are decided by this choice, so it is said once and shared: `Zero`, `Mean`,
`Point`, `Marginal`, `Gaussian`, `Nearest`, `Blurred`, `Inpainted`, `Dropped`, `Custom`. ``Reference.marginal(X)`` is
``Marginal(X)``. A new one is a class in a file here, registered with ``@reference("name")``.

Imports ``errors`` alone.
"""

from backlight.references.base import KINDS, Fill, Reference, as_reference, reference
from backlight.references.constant import Mean, Point, Zero
from backlight.references.custom import Custom
from backlight.references.gaussian import Gaussian
from backlight.references.pictures import Blurred, Inpainted
from backlight.references.rows import Marginal, Nearest
from backlight.references.sets import Dropped

__all__ = [
    "KINDS",
    "Blurred",
    "Custom",
    "Dropped",
    "Fill",
    "Gaussian",
    "Inpainted",
    "Marginal",
    "Mean",
    "Nearest",
    "Point",
    "Reference",
    "Zero",
    "as_reference",
    "reference",
]
