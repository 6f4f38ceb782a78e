"""Attributions for PyTorch modules: relevance propagation, and the reference methods.

``lrp`` relevance by the engine · ``reference`` gradients, integrated gradients, SmoothGrad, occlusion, Shapley
sampling · ``inputs`` what the user gives, as batches of tensors · ``requested`` the one reader of ``target`` ·
``targets`` what is explained, as seeds at the output · ``canonical`` the canonical form of a module · ``plan`` what
will run where. A new reference method is one function with ``@method("its_name")``.
"""

from backlight.attribution.plan import plan
from backlight.attribution.reference import Method

__all__ = ["Method", "plan"]
