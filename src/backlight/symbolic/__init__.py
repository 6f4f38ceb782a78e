"""Small networks in symbols: relevance as a formula, and proofs that two networks are the same function.

``polyhedra`` inequalities, decided in floating point and proved in rational numbers · ``piecewise`` networks in
rational numbers and their linear regions · ``domains`` where the inputs lie · ``formulas`` the rules in symbols ·
``derive``, ``equivalent``, ``thresholds`` the questions.
"""

from backlight.symbolic.derive import Derivation, Region, derive
from backlight.symbolic.equivalent import Counterexample, NotProved, Proof, equivalent
from backlight.symbolic.limits import PoolingLimit, pooling_limit
from backlight.symbolic.thresholds import always_different_from

__all__ = [
    "Counterexample",
    "Derivation",
    "NotProved",
    "PoolingLimit",
    "Proof",
    "Region",
    "always_different_from",
    "derive",
    "equivalent",
    "pooling_limit",
]
