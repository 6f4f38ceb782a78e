"""The relevance engine: capture a model as a graph, plan a rule for every place, run.

``capture`` model to graph, `torch.export` first · ``simplify`` drops what is no operation · ``operators`` the
vocabulary · ``facts`` what is proved about signs · ``composites``, ``recipes`` which rule where · ``plan`` the table,
which is what runs · ``run`` the one loop · ``network`` the cached face of it all.

The user's model is read, never written. Relevance flows as messages, see `backlight.rules`.
"""

from backlight.engine.composites import Composite, Place, convolution, dense, first
from backlight.engine.network import Network
from backlight.engine.operators import operator
from backlight.engine.plan import Plan
from backlight.engine.presets import PRESETS as presets  # noqa: N811 - it reads as a module of presets

__all__ = ["Composite", "Network", "Place", "Plan", "convolution", "dense", "first", "operator", "presets"]
