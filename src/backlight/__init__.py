"""Every model is a network, and every explanation is one pass through it.

Importing this package loads neither torch nor scikit-learn: the public names arrive when they are first used.
"""

from __future__ import annotations

import importlib
import warnings
from typing import TYPE_CHECKING, Any

from backlight._version import __version__
from backlight.errors import BacklightError
from backlight.hints import readable

if TYPE_CHECKING:
    from backlight import concepts as concepts
    from backlight import constraints as constraints
    from backlight import engine as engine
    from backlight import examples as examples
    from backlight import priors as priors
    from backlight import references as references
    from backlight import rules as rules
    from backlight import spaces as spaces
    from backlight import symbolic as symbolic
    from backlight import targets as targets
    from backlight import testing as testing
    from backlight import text as text
    from backlight._audit import Audit as Audit
    from backlight._audit import Rewrite as Rewrite
    from backlight._audit import audit as audit
    from backlight._evaluate import Evaluation as Evaluation
    from backlight._evaluate import evaluate as evaluate
    from backlight._evaluate import metrics as metrics
    from backlight._explain import Explainer as Explainer
    from backlight._explain import explain as explain
    from backlight._export import export as export
    from backlight._prototype import Prototypes as Prototypes
    from backlight._prototype.prototype import prototype as prototype
    from backlight.attribution import Method as Method
    from backlight.attribution import plan as plan
    from backlight.batches import ContributionSums as ContributionSums
    from backlight.batches import explain_batches as explain_batches
    from backlight.batches import sum_batches as sum_batches
    from backlight.canonical import Canonical as Canonical
    from backlight.canonical import canonize as canonize
    from backlight.classical import NeuralizedModel as NeuralizedModel
    from backlight.classical import neuralize as neuralize
    from backlight.engine import Composite as Composite
    from backlight.engine import convolution as convolution
    from backlight.engine import dense as dense
    from backlight.engine import first as first
    from backlight.engine import presets as presets
    from backlight.explanation import Explanation as Explanation
    from backlight.explanation import Ledger as Ledger
    from backlight.references import Reference as Reference
    from backlight.symbolic import derive as derive
    from backlight.symbolic import equivalent as equivalent

__all__ = [
    "Audit",
    "BacklightError",
    "Canonical",
    "Composite",
    "ContributionSums",
    "Evaluation",
    "Explainer",
    "Explanation",
    "Ledger",
    "Method",
    "NeuralizedModel",
    "Prototypes",
    "Reference",
    "Rewrite",
    "__version__",
    "audit",
    "canonize",
    "classical",
    "concepts",
    "constraints",
    "convolution",
    "dense",
    "derive",
    "engine",
    "equivalent",
    "errors",
    "evaluate",
    "examples",
    "explain",
    "explain_batches",
    "export",
    "first",
    "metrics",
    "neuralize",
    "plan",
    "presets",
    "priors",
    "prototype",
    "references",
    "rules",
    "spaces",
    "sum_batches",
    "symbolic",
    "targets",
    "testing",
    "text",
]

_HOME = {
    "Audit": "backlight._audit",
    "Canonical": "backlight.canonical",
    "Composite": "backlight.engine",
    "ContributionSums": "backlight.batches",
    "Evaluation": "backlight._evaluate",
    "Explainer": "backlight._explain",
    "Explanation": "backlight.explanation",
    "Ledger": "backlight.explanation",
    "Method": "backlight.attribution",
    "NeuralizedModel": "backlight.classical",
    "Prototypes": "backlight._prototype",
    "Reference": "backlight.references",
    "Rewrite": "backlight._audit",
    "audit": "backlight._audit",
    "canonize": "backlight.canonical",
    "convolution": "backlight.engine",
    "dense": "backlight.engine",
    "derive": "backlight.symbolic",
    "equivalent": "backlight.symbolic",
    "evaluate": "backlight._evaluate",
    "explain": "backlight._explain",
    "explain_batches": "backlight.batches",
    "export": "backlight._export",
    "first": "backlight.engine",
    "metrics": "backlight._evaluate",
    "neuralize": "backlight.classical",
    "plan": "backlight.attribution",
    "presets": "backlight.engine",
    "prototype": "backlight._prototype",
    "sum_batches": "backlight.batches",
}
_ROOMS = (
    "classical", "concepts", "constraints", "engine", "errors", "examples", "priors", "references", "rules", "spaces",
    "symbolic", "targets", "testing", "text",
)  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
        readable(value)
    elif name in _ROOMS:
        value = importlib.import_module(f"backlight.{name}")
    elif name == "neural":
        warnings.warn("backlight.neural is called backlight.classical since version 0.2", FutureWarning, stacklevel=2)
        value = importlib.import_module("backlight.classical")
    else:
        raise AttributeError(f"module 'backlight' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
