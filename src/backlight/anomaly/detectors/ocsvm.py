"""One-class SVM: a boundary around half of the rows."""

from typing import Any

from backlight.anomaly.detectors.base import Detector, register
from backlight.anomaly.detectors.density import scott_bandwidth
from backlight.anomaly.detectors.single import encoded


def _ocsvm(n: int, d: int) -> Any:
    from sklearn.svm import OneClassSVM

    return OneClassSVM(gamma=1 / (2 * scott_bandwidth(n, d) ** 2), nu=0.5)


register(Detector("ocsvm", "one-class SVM", encoded(_ocsvm)))
