"""PyOD's detectors by name, ``pyod:ECOD``: fitted on the encoded rows, with their own threshold."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from typing import Any

from backlight.anomaly.detectors.base import Detector, Reference
from backlight.anomaly.detectors.network import EncodedNetwork, fitted
from backlight.classical.families.pyod import detectors
from backlight.classical.trust import quiet
from backlight.errors import ArgumentError, BacklightError, DataError, listed, require

__all__ = ["PREFIX", "pyod_detector"]

PREFIX = "pyod:"
_MODULES = {"AutoEncoder": "auto_encoder", "DeepSVDD": "deep_svdd", "FeatureBagging": "feature_bagging"}


def pyod_detector(name: str) -> Detector:
    """The detector that ``pyod:NAME`` means; upper and lower case are the same.

    Raises
    ------
    ArgumentError
        For a detector that has no network.
    MissingDependency
    """
    wanted = name.removeprefix(PREFIX)
    known = next((one for one in detectors() if one.lower() == wanted.lower()), None)
    if known is None:
        raise ArgumentError(f"detector {name!r} is not known: after {PREFIX} choose from {listed(detectors())}")
    require("pyod", "pyod", f"the detector {PREFIX}{known}")
    with quiet():  # of what its modules say when they are imported
        cls = getattr(import_module(f"pyod.models.{_MODULES.get(known, known.lower())}"), known)

    def make(n: int, width: int) -> Any:
        given = {"n_features": width} if known == "DeepSVDD" else {}
        model = cls(**given)
        options = model.get_params()
        chosen = {key: value for key, value in (("random_state", 0), ("verbose", 0)) if key in options}
        if options.get("n_neighbors", 0) >= n:
            chosen["n_neighbors"] = n - 1
        return model.set_params(**chosen)

    def fit(reference: Reference) -> EncodedNetwork:
        try:
            with quiet():
                return replace(fitted(make(*reference.z.shape).fit(reference.z), reference), keeps_threshold=True)
        except BacklightError:
            raise
        except Exception as error:  # the boundary to detectors that refuse tables in words of their own
            said = " ".join(str(error).split())[:120]
            raise DataError(f"{known} of PyOD cannot be fitted on this table: {said}") from error

    return Detector(f"{PREFIX}{known}", f"{known} of PyOD", fit)
