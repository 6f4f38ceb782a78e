"""The structure audit: would the explanation survive if the same function were written differently.

``rewrite`` what a rewrite is, and the tools to make one · ``units``, ``layers``, ``operators`` the catalogue ·
``attacks`` rewrites made to move explanations · ``measure`` how far two explanations differ · ``study`` the audit.

A new rewrite is one function with ``@rewrite("its name", …)`` in the file where its siblings are.
"""

from backlight.structure import attacks, layers, operators, units
from backlight.structure.rewrite import REWRITES, Rewrite
from backlight.structure.study import Audit, audit

__all__ = ["REWRITES", "Audit", "Rewrite", "attacks", "audit", "layers", "operators", "units"]
