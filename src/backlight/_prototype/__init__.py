"""Prototypes: what does the model look for? argmax of f(x) − strength · Ω(x), with a certificate.

`prototype` reads the problem, asks the exact solvers in turn (`prototypes/exact`), and climbs where none applies
(`local`, `constrained`). What is maximised is in `backlight.targets`, Ω in `backlight.priors`, how x is written in
`backlight.spaces`, what it must satisfy in `backlight.constraints`.
"""

from backlight._prototype.problem import Certificate
from backlight._prototype.prototype import prototype
from backlight._prototype.result import Prototypes

__all__ = ["Certificate", "Prototypes", "prototype"]
