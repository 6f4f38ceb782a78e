"""From a table to its explained anomalies; what the command line and the report stand on.

``detector``  column kinds → a scikit-learn pipeline → its network
``study``     scores, explanations, p-values, bands, repairs, groups, and whether to trust them

Imports everything below: ``neural``, ``evaluate``, ``tables``. A new detector is an entry of `DETECTORS`.
"""

from backlight.anomaly.detector import DETECTORS, Prepared, fit_detector, prepare
from backlight.anomaly.study import Study, study

__all__ = ["DETECTORS", "Prepared", "Study", "fit_detector", "prepare", "study"]
