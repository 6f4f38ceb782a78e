"""From a table to its explained anomalies; what the command line and the report stand on.

``prepared``   columns → numbers and codes
``encoding``   one transform a column, chosen and named
``reference``  which rows to learn from, so that anomalies cannot hide
``detectors``  what judges rows; one file each
``tail``       how rare a score is; the threshold
``fitting``    these together
``study``      scores, contributions, p-values, normal ranges, changes, kinds
``selfcheck``  how often the reasons are right in the user's own table
``workflow``   the two ways to a study

Imports everything below: ``classical``, ``evaluate``, ``tables``. A new detector is a file in ``detectors``.
"""

from backlight.anomaly.detectors import DETECTORS
from backlight.anomaly.fitting import Fitted, fit_detector
from backlight.anomaly.prepared import Prepared, prepare
from backlight.anomaly.study import Study, study

__all__ = ["DETECTORS", "Fitted", "Prepared", "Study", "fit_detector", "prepare", "study"]
