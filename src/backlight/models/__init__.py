"""One protocol for every model.

``protocol``  `Model`, what every verb asks of one, and `Query`, how attributions are wanted
``open``      from anything that a user has to a `Model`
``torch``     torch modules and exported programs
``network``   networks of classical models
``explained`` batch by batch to one `Explanation`, and the one check of conservation

Imports ``classical``, ``attribution`` and what is below them. A new kind of model is one class with the methods of
`Model`, in a file of its own, and one line in ``open``.
"""

from backlight.models.explained import explained
from backlight.models.open import open_model, reopened
from backlight.models.protocol import Model, Query

__all__ = ["Model", "Query", "explained", "open_model", "reopened"]
