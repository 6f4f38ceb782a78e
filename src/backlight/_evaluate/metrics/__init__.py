"""What makes an explanation good, one metric a file, each with its formula, its source and its known failure.

A new metric is a frozen dataclass in a file here, registered with ``@metric("name")``; the laws find it.
"""

from backlight._evaluate.metrics import (
    agreement,
    complexity,
    conservation,
    curves,
    infidelity,
    localisation,
    planted_truth,
    randomisation,
    sensitivity_n,
    stability,
)
from backlight._evaluate.metrics.base import METRICS, Candidate, Judge, Metric, metric
from backlight._evaluate.planted import FAULTS, Planted, plant
from backlight._rooms import open_room

__all__ = [
    "FAULTS",
    "METRICS",
    "Candidate",
    "Judge",
    "Metric",
    "Planted",
    "agreement",
    "complexity",
    "conservation",
    "curves",
    "infidelity",
    "localisation",
    "metric",
    "plant",
    "planted_truth",
    "randomisation",
    "sensitivity_n",
    "stability",
]

open_room(__name__, __path__)
