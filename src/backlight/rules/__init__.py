"""Propagation rules: one small frozen class each, with its formula and its source.

For layers with weights: ``epsilon`` (LRP-0, ε), ``gamma`` (γ for inputs of any sign), ``alphabeta`` (αβ, z⁺),
``inputs`` (flat, w², box). For operators without: ``routing``. For classical models: ``softmin``. ``maps`` is what a
rule sees of a layer, ``base`` what rules have in common.

Imports nothing but torch. A new rule for layers is a subclass of `LinearRule` in a file of its own here, with
``@named("its-name")``; a slow twin in ``tests/oracles/lrp.py`` is compared with it. A new one for distances is a
subclass of `SoftMinRule` and an entry of `SOFTMIN_RULES`.
"""

from backlight._rooms import open_room
from backlight.rules.alphabeta import AlphaBeta, ZPlus
from backlight.rules.base import (
    NAMED_RULES,
    BoundRule,
    Facts,
    LinearRule,
    Message,
    Rule,
    as_gradient,
    divide,
    dot,
    named,
    relevance,
    row_sums,
)
from backlight.rules.contraction import Contraction
from backlight.rules.epsilon import Epsilon, Zero
from backlight.rules.expansion import EXPANSION_RULES, GlobalImportance, Hybrid, Midpoint, SignedPools
from backlight.rules.gamma import Gamma
from backlight.rules.inputs import Box, Flat, WSquare
from backlight.rules.maps import Convolution, Dense, Elementwise, LinearMap
from backlight.rules.quadratic import (
    QUADRATIC_RULES,
    CompleteContribution,
    PartialContribution,
    ReconstructionContribution,
)
from backlight.rules.routing import Pass, Proportional, SignalTakesAll, SoftmaxShare, Uniform, WinnerTakesAll
from backlight.rules.softmin import SOFTMIN_RULES, Free, OneClassDTD, Pool, SoftMinRule, Stable
from backlight.rules.surprise import ConditionalSurprise
from backlight.rules.trees import TREE_RULES, TreePath, TreeShapley

__all__ = [
    "EXPANSION_RULES",
    "NAMED_RULES",
    "QUADRATIC_RULES",
    "SOFTMIN_RULES",
    "TREE_RULES",
    "AlphaBeta",
    "BoundRule",
    "Box",
    "CompleteContribution",
    "ConditionalSurprise",
    "Contraction",
    "Convolution",
    "Dense",
    "Elementwise",
    "Epsilon",
    "Facts",
    "Flat",
    "Free",
    "Gamma",
    "GlobalImportance",
    "Hybrid",
    "LinearMap",
    "LinearRule",
    "Message",
    "Midpoint",
    "OneClassDTD",
    "PartialContribution",
    "Pass",
    "Pool",
    "Proportional",
    "ReconstructionContribution",
    "Rule",
    "SignalTakesAll",
    "SignedPools",
    "SoftMinRule",
    "SoftmaxShare",
    "Stable",
    "TreePath",
    "TreeShapley",
    "Uniform",
    "WSquare",
    "WinnerTakesAll",
    "ZPlus",
    "Zero",
    "as_gradient",
    "divide",
    "dot",
    "named",
    "relevance",
    "row_sums",
]

open_room(__name__, __path__)  # a file in this room is all that a new rule needs
