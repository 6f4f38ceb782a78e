"""What keeps a prototype plausible: Ω in f(x) − strength · Ω(x).

A prior gives an energy, for densities −log p(x). To add one, write a class with `Prior.energy` in a file of its own;
a prior that is a quadratic form also says how it whitens, and gets every closed form with that.
"""

from backlight.priors.base import Prior, Sum, Whitening
from backlight.priors.density import LogProb
from backlight.priors.estimators import from_estimator
from backlight.priors.gaussian import L2, Gaussian, Near
from backlight.priors.mixture import KernelDensity, Mixture
from backlight.priors.norms import L1, TotalVariation
from backlight.priors.rbm import RBM

__all__ = [
    "L1",
    "L2",
    "RBM",
    "Gaussian",
    "KernelDensity",
    "LogProb",
    "Mixture",
    "Near",
    "Prior",
    "Sum",
    "TotalVariation",
    "Whitening",
    "from_estimator",
]
