r"""Trees, forests, boosting and isolation forests: no network that relevance could pass, so an established explainer.

A tree is a step function: its slope is zero everywhere, and the layers that one could write it as have no useful root
points. Its exact Shapley values, however, can be computed in polynomial time (Lundberg et al., Nature Machine
Intelligence 2, 2020). `backlight.explain` hands these models to the ``shap`` library (``pip install
'backlight[shap]'``) and dresses what it returns: the same table, the same columns, ``base_values`` the expected output.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from backlight.classical.frontend.columns import FrontEnd
from backlight.classical.frontend.pipeline import front_features, unwrap
from backlight.classical.network import Relevance
from backlight.classical.neuralize import check_fitted
from backlight.classical.registry import public_name, without_names
from backlight.classical.targets import Outputs
from backlight.errors import ArgumentError, UnsupportedModel, require
from backlight.tables import Frame, as_frame

__all__ = ["TreeModel", "is_tree", "name_of"]

_CLASSIFIERS = (
    "sklearn.tree.DecisionTreeClassifier",
    "sklearn.tree.ExtraTreeClassifier",
    "sklearn.ensemble.RandomForestClassifier",
    "sklearn.ensemble.ExtraTreesClassifier",
)
_MARGINS = ("sklearn.ensemble.GradientBoostingClassifier", "sklearn.ensemble.HistGradientBoostingClassifier")
_REGRESSORS = (
    "sklearn.tree.DecisionTreeRegressor",
    "sklearn.tree.ExtraTreeRegressor",
    "sklearn.ensemble.RandomForestRegressor",
    "sklearn.ensemble.ExtraTreesRegressor",
    "sklearn.ensemble.GradientBoostingRegressor",
    "sklearn.ensemble.HistGradientBoostingRegressor",
)
_FOREST = "sklearn.ensemble.IsolationForest"


def _kind(model: Any) -> str | None:
    for cls in type(unwrap(model).estimator).__mro__:
        name = public_name(cls)
        if name in (*_CLASSIFIERS, *_MARGINS, *_REGRESSORS, _FOREST):
            return name
    return None


def is_tree(model: Any) -> bool:
    """Whether the estimator at the end of a model is made of trees."""
    return _kind(model) is not None


def name_of(model: Any) -> str:
    """The estimator's class."""
    return type(unwrap(model).estimator).__name__


class TreeModel:
    """A tree model, its front end, and the explainer of the library beside it.

    Scores: "probability" (trees and forests), "decision_function" (boosting), "predict" (regressions), "outlierness"
    (isolation forests: minus the mean path length over the trees, which ``score_samples`` is a rising function of;
    −path length is what is additive over trees).
    """

    def __init__(self, model: Any, score: str | None, reference: Any) -> None:
        shap = require("shap", "shap", f"explaining a {name_of(model)} (trees are no network)")
        parts = unwrap(model)
        check_fitted(parts.estimator)
        kind = _kind(model) or ""
        self.estimator, self.kind = (
            without_names(parts.estimator),
            f"{name_of(model)}, by exact Shapley values of its trees",
        )
        self.version = str(shap.__version__)
        self.method = "tree_shap"
        self.score = (
            "probability" if kind in _CLASSIFIERS else "decision_function" if kind in _MARGINS
            else "outlierness" if kind == _FOREST else "predict"
        )  # fmt: skip
        if score not in (None, self.score):
            raise ArgumentError(f"score={score!r} is not a score of this {name_of(model)}: choose from {self.score!r}")
        classes = getattr(parts.estimator, "classes_", None)
        self.outputs = Outputs()
        if classes is not None:
            if not isinstance(classes, np.ndarray) or len(classes) < 2:
                raise UnsupportedModel(f"{name_of(model)} with several outputs, or one class, is not supported")
            self.outputs = Outputs.classes(classes) if kind in _MARGINS else Outputs.each(classes)
        elif getattr(parts.estimator, "n_outputs_", 1) > 1:
            raise UnsupportedModel(f"{name_of(model)} with several outputs is not supported: fit one model an output")
        names, named, features = front_features(parts)
        if features.linear is not None:
            raise UnsupportedModel(
                f"{name_of(model)} after a projection has Shapley values of the projected axes, which belong to no "
                "column: fit it without the projection"
            )
        self.front = FrontEnd(names, named, features, torch.float64)
        background = None
        if reference is not None:
            background = self._elements(as_frame(reference)).numpy()
        perturbation = "tree_path_dependent" if background is None else "interventional"
        try:
            self.explainer = shap.TreeExplainer(
                self.estimator, background, feature_perturbation=perturbation, model_output="raw"
            )
        except shap.utils._exceptions.InvalidModelError as error:
            raise UnsupportedModel(
                f"shap {self.version} has no exact explainer for {name_of(model)}: {error}"
            ) from error
        self.sign = -1.0 if kind == _FOREST else 1.0

    def _elements(self, frame: Frame) -> torch.Tensor:
        out: torch.Tensor = self.front.elements(self.front.encode(frame))
        return out

    def relevance(self, frame: Frame, target: Any) -> Relevance:
        """Shapley values of the elements, summed into columns."""
        e = self._elements(frame)
        values = np.asarray(self.explainer.shap_values(e.numpy(), check_additivity=False), dtype=float)
        base = np.atleast_1d(np.asarray(self.explainer.expected_value, dtype=float))
        values = self.sign * (values[..., None] if values.ndim == 2 else values)
        units = self._units(e.numpy())
        columns = self.front.pullback.columns(torch.as_tensor(values).movedim(2, 1)).numpy()  # (n, units, columns)
        picked = []
        several = Outputs.several(target)
        wanted = self.outputs.targets(target, len(e))
        for one in wanted:
            c = self.outputs.coefficients(one, torch.as_tensor(units)).numpy()
            R = np.einsum("nu,nuk->nk", c, columns)
            picked.append((R, (c * units).sum(1), (c * (self.sign * base)).sum(1)))
        flow = {"trees": sum(out for _, out, _ in picked), "columns": sum(R.sum(1) for R, _, _ in picked)}
        parts = [np.stack(part, -1) if several else part[0] for part in zip(*picked, strict=True)]
        imputed = {"imputed": np.asarray(self.front.missing(self.front.encode(frame)))}
        if self.outputs.names and not several and wanted[0].direction is None:
            imputed["target"] = self.outputs.index(wanted[0], torch.as_tensor(units)).numpy()
        return Relevance(parts[0], parts[1], parts[2], imputed, flow, tuple(one.name for one in wanted))

    def _units(self, z: np.ndarray) -> np.ndarray:
        """What the explained score is, by the original library: (n, U)."""
        call: Callable[..., Any] = {
            "probability": getattr(self.estimator, "predict_proba", None),
            "decision_function": getattr(self.estimator, "decision_function", None),
            "predict": self.estimator.predict,
            "outlierness": self._path,
        }[self.score]
        out = np.asarray(call(z), dtype=float)
        return out[:, None] if out.ndim == 1 else out

    def _path(self, z: Any) -> np.ndarray:
        """Minus the mean path length: −score_samples = 2^(−path/c), with c from the number of rows a tree was given."""
        c = _average_path(self.estimator._max_samples)  # private, as public max_samples may be "auto"
        return np.asarray(c * np.log2(-self.estimator.score_samples(z)))


def _average_path(n: int) -> float:
    """c(n): the mean path length of an unsuccessful search in a binary search tree (Liu et al. 2008)."""
    return 0.0 if n <= 1 else 1.0 if n == 2 else 2.0 * (np.log(n - 1.0) + np.euler_gamma) - 2.0 * (n - 1.0) / n
