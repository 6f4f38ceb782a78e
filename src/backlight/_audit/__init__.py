"""The structure audit: would the explanation survive if the same function were written differently.

``rewrite`` what a rewrite is, and the tools to make one · ``units``, ``layers``, ``operators`` the catalogue ·
``attacks`` rewrites made to move explanations · ``measure`` how far two explanations differ · ``study`` the audit.

A new rewrite is one function with ``@rewrite("its name", …)`` in the file where its siblings are.
"""

from backlight._audit import attacks, layers, operators, units
from backlight._audit.audit import audit
from backlight._audit.result import Audit
from backlight._audit.rewrite import REWRITES, Rewrite
from backlight._rooms import open_room

__all__ = ["REWRITES", "Audit", "Rewrite", "attacks", "audit", "layers", "operators", "units"]

open_room(__name__, __path__, later=("plots",))
