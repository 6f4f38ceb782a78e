"""Detectors, one a file. To add one, add a file that calls `register`, or `register_member` for the ensemble.

``base``         what a detector promises, and the two registries
``ensemble``     the default: all members, added in bits
``density`` · ``local`` · ``correlation`` · ``marginal``   its members
``single``       an estimator of scikit-learn behind the encoder; the other files name one each
``network``      its network
"""

from importlib import import_module
from pkgutil import iter_modules

from backlight.anomaly.detectors.base import DETECTORS, MEMBERS, Contributions, Detector, FittedDetector, Reference

# The members stand in the order in which people read of them, the default detector first.
_FIRST = ("density", "local", "correlation", "marginal", "ensemble", "kde", "ocsvm", "lof", "knn")

for _name in (*_FIRST, *sorted(m.name for m in iter_modules(__path__) if m.name not in (*_FIRST, "network", "single"))):
    import_module(f"{__name__}.{_name}")

__all__ = ["DETECTORS", "MEMBERS", "Contributions", "Detector", "FittedDetector", "Reference"]
