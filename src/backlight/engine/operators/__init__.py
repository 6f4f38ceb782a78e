"""The vocabulary of operators: which of them relevance can pass, and how.

``linear`` layers with weights · ``activations`` · ``routing`` what moves, sums and picks · ``products`` products,
gates, normalisations · ``attention`` softmax and the fused operators · ``functions`` norms,
distances, log-sum-exp · ``whole`` numbers on the way to a table. A new
operator is one function with ``@operator("its_name")`` in the file where its siblings are.
"""

from backlight._rooms import open_room
from backlight.engine.operators import activations, attention, functions, linear, products, routing, whole
from backlight.engine.operators.registry import ALIASES, FIRST_OF_TUPLE, Context, find, operator

__all__ = [
    "ALIASES", "FIRST_OF_TUPLE", "Context", "activations", "attention", "find", "functions", "linear", "operator",
    "products", "routing", "whole",
]  # fmt: skip

open_room(__name__, __path__)
