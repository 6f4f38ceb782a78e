"""Detectors, one a file. To add one, add a file that calls `register`, or `register_member` for the ensemble.

``base``         what a detector promises, and the two registries
``ensemble``     the default: all members, added in bits
``density`` · ``local`` · ``correlation`` · ``marginal``   its members
``single``       an estimator of scikit-learn behind the encoder; the other files name one each
``network``      its network
``pyod``         PyOD's by name
"""

from importlib import import_module
from pkgutil import iter_modules

from backlight.anomaly.detectors.base import DETECTORS, MEMBERS, Contributions, Detector, FittedDetector, Reference
from backlight.errors import ArgumentError, listed

# The members stand in the order in which people read of them, the default detector first.
_FIRST = ("density", "local", "correlation", "marginal", "ensemble", "kde", "ocsvm", "lof", "knn")

_ASIDE = (*_FIRST, "network", "pyod", "single")

for _name in (*_FIRST, *sorted(m.name for m in iter_modules(__path__) if m.name not in _ASIDE)):
    import_module(f"{__name__}.{_name}")

__all__ = ["DETECTORS", "MEMBERS", "Contributions", "Detector", "FittedDetector", "Reference", "detector_of"]


def detector_of(name: str) -> Detector:
    """The detector of a name: one of `DETECTORS`, or PyOD's as ``pyod:NAME``.

    Raises
    ------
    ArgumentError, MissingDependency
    """
    if name.startswith("pyod:"):
        from backlight.anomaly.detectors.pyod import pyod_detector

        return pyod_detector(name)
    if name not in DETECTORS:
        raise ArgumentError(f"detector {name!r} is not known: choose from {listed(DETECTORS)}, or pyod:NAME")
    return DETECTORS[name]
