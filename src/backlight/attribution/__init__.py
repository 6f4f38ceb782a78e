"""Attributions for PyTorch modules behind one call: relevance propagation, and the reference methods.

``lrp`` relevance by the engine · ``reference`` gradients, integrated gradients, SmoothGrad, occlusion, Shapley sampling
· ``inputs`` what the user gives, as batches of tensors · ``targets`` what is explained, as seeds at the output ·
``explain`` puts them together. A new reference method is one function with ``@method("its_name")``.
"""

from backlight.attribution.explain import METHODS, explain_module, plan
from backlight.attribution.reference import Method

__all__ = ["METHODS", "Method", "explain_module", "plan"]
