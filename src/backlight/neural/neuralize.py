"""`neuralize`: from a fitted estimator to a network with the same score."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from backlight.errors import NotFittedModel, UnsupportedModel
from backlight.neural.frontend import FrontEnd
from backlight.neural.network import Head, NeuralizedModel
from backlight.neural.pipeline import front_features, unwrap
from backlight.neural.registry import ClassRegistry, public_name

__all__ = ["Neuralize", "neuralize"]


class Neuralize:
    """Rewrite a fitted model as a network with the same score.

    ``neuralize(model, *, score=None, dtype=torch.float64)``

    Parameters
    ----------
    model : fitted scikit-learn estimator or Pipeline
        `OneClassSVM` (RBF kernel) or `KernelDensity` (Gaussian kernel), alone or at the end of a pipeline of
        scalers, `SimpleImputer`, `OneHotEncoder`, `PCA` and `ColumnTransformer`.
    score : str, optional
        ``"outlierness"`` (default): for a kernel density −log p(x); for a one-class SVM −log(score_samples(x)/S)
        with S the sum of the dual coefficients, so that 0 is the most normal value possible and the alarm line is
        −log(offset_/S). ``"inlierness"``: the negative, for a one-class SVM counted from its alarm line.
        ``"score_samples"`` and (one-class SVM) ``"decision_function"``: exactly what those methods return.
    dtype : torch.dtype, default float64

    Returns
    -------
    NeuralizedModel
        A `torch.nn.Module`.

    Raises
    ------
    UnsupportedModel
        When no exact network is known for the model, one of its steps, or one of their options.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.svm import OneClassSVM
    >>> import backlight
    >>> X = np.random.default_rng(0).normal(size=(50, 3))
    >>> model = OneClassSVM(nu=0.2).fit(X)
    >>> net = backlight.neuralize(model, score="decision_function")
    >>> bool(np.allclose(net(X), model.decision_function(X), rtol=0, atol=1e-12))
    True
    """

    def __init__(self) -> None:
        self._models: ClassRegistry[Callable[[Any], Head]] = ClassRegistry()

    def register(self, *classes: type | str) -> Callable[[Callable[[Any], Head]], Callable[[Any], Head]]:
        """Register a function ``(fitted estimator) -> Head`` for a class of estimators."""
        return self._models.register(*classes)

    @property
    def supported(self) -> list[str]:
        """Qualified names of the models that can be neuralized."""
        return self._models.names

    def __call__(self, model: Any, *, score: str | None = None, dtype: torch.dtype = torch.float64) -> NeuralizedModel:
        """Neuralize a fitted model; see the class."""
        parts = unwrap(model)
        function = self._models.find(parts.estimator)
        if function is None:
            supported = ", ".join(name.rpartition(".")[2] for name in self.supported)
            raise UnsupportedModel(
                f"no exact network is known for {public_name(type(parts.estimator))}: "
                f"this version neuralizes {supported}; "
                "your own is one function, registered with backlight.neuralize.register"
            )
        _check_fitted(parts.estimator)
        names, named, features = front_features(parts)
        front = FrontEnd(names, named, features, dtype)
        return NeuralizedModel(parts.estimator, parts.transform, front, function(parts.estimator), score, dtype)


def _check_fitted(estimator: Any) -> None:
    from sklearn.base import BaseEstimator
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.validation import check_is_fitted

    if not isinstance(estimator, BaseEstimator):
        return  # a third party's model says so itself, in its own function
    try:
        check_is_fitted(estimator)
    except NotFittedError as error:
        raise NotFittedModel(f"{type(estimator).__name__} is not fitted: call its fit(X) first") from error


neuralize = Neuralize()
