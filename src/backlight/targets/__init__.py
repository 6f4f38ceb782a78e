"""What a prototype maximises.

A target is a sum of weighted terms: ``logit(3) - logit(8)``, ``channel("layer4", [0, 5]) - 0.1 * energy("layer3")``.
To add one, write a `Term` with its value in a file of its own.
"""

from backlight.targets.base import Seen, Target, Term
from backlight.targets.outputs import difference, direction, function, log_probability, logit, probability
from backlight.targets.robust import robust
from backlight.targets.units import channel, energy, neuron

__all__ = [
    "Seen",
    "Target",
    "Term",
    "channel",
    "difference",
    "direction",
    "energy",
    "function",
    "log_probability",
    "logit",
    "neuron",
    "probability",
    "robust",
]
