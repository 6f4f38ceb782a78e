"""`neuralize`: from a fitted estimator to a network with the same score."""

from __future__ import annotations

import copyreg
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch

from backlight.arguments import checked, shown
from backlight.classical import trust
from backlight.classical.frontend.columns import FrontEnd
from backlight.classical.frontend.pipeline import front_features, is_fitted, unwrap
from backlight.classical.network import ModelSpec, NeuralizedModel
from backlight.classical.registry import ClassRegistry, public_name
from backlight.errors import ArgumentError, NotFittedModel, UnsupportedModel
from backlight.hints import ModelLike, RowsLike

if TYPE_CHECKING:
    from backlight.classical.heads import FeatureHead

__all__ = ["Neuralize", "check_fitted", "neuralize", "spec_of"]


class Neuralize:
    """Rewrite a fitted model as a network with the same score.

    ``neuralize(model, *, score=None, dtype=torch.float64, columns=None, features=None, data=None)``

    Parameters
    ----------
    model : fitted scikit-learn estimator or Pipeline
        Alone or at the end of a pipeline. ``backlight.neuralize.supported`` lists the estimators; the modules of
        `backlight.classical` have the formulas.
    score : str, optional
        Each model documents its own, the first is the default. Names that are methods (``"decision_function"``,
        ``"score_samples"``, ``"predict"``) are exactly what those return. ``"outlierness"``: for densities −log p(x);
        for a one-class SVM −log(score_samples(x)/S) with S the sum of the dual coefficients, so that 0 is the most
        normal value possible and the alarm line is −log(offset_/S); for others the distance that they detect by.
        ``"inlierness"``: the negative, for a one-class SVM counted from its alarm line. ``"assignment"``: of clusters,
        how much nearer than the next one. ``"log_odds"``, ``"probability"``: of classes.
    dtype : torch.dtype, default float64
    columns : sequence of str, optional
        The table's columns, for a model of a third party that does not count them.
    features : torch.nn.Module, optional
        The model is a head that was fitted on this module's features; or a centre in their space, an array of shape
        (K,), as of a deep one-class model. What is explained are the module's inputs.
    data : array or tensor of shape (M, …), optional
        With ``features``: the inputs whose features the head was fitted on.

    Returns
    -------
    NeuralizedModel
        A `torch.nn.Module`; with ``features`` a `backlight.classical.heads.FeatureHead`, which is one as well.

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
        self._models: ClassRegistry[Callable[[Any], ModelSpec]] = ClassRegistry()

    def register(self, *classes: type | str) -> Callable[[Callable[[Any], ModelSpec]], Callable[[Any], ModelSpec]]:
        """Register a function ``(fitted estimator) -> ModelSpec`` for a class of estimators."""
        return self._models.register(*classes)

    @property
    def supported(self) -> list[str]:
        """Qualified names of the models that can be neuralized."""
        return [name for name in self._models.names if name != _PRIVATE]

    @overload
    def __call__(
        self,
        model: ModelLike,
        *,
        score: str | None = None,
        dtype: torch.dtype = torch.float64,
        columns: Sequence[str] | None = None,
        features: None = None,
        data: None = None,
    ) -> NeuralizedModel: ...

    @overload
    def __call__(
        self,
        model: ModelLike,
        *,
        score: str | None = None,
        dtype: torch.dtype = torch.float64,
        columns: Sequence[str] | None = None,
        features: torch.nn.Module,
        data: RowsLike,
    ) -> FeatureHead: ...

    @checked
    def __call__(
        self,
        model: ModelLike,
        *,
        score: str | None = None,
        dtype: torch.dtype = torch.float64,
        columns: Sequence[str] | None = None,
        features: torch.nn.Module | None = None,
        data: RowsLike = None,
    ) -> NeuralizedModel | FeatureHead:
        """Neuralize a fitted model; see the class."""
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            raise ArgumentError(f"dtype= must be a torch.dtype of fractions, as torch.float64 is, not {shown(dtype)}")
        if features is not None:
            return self._on_features(model, score, dtype, features, data)
        parts = unwrap(model)
        head = self.head(parts.estimator)
        names, named, reached, reader = front_features(parts, head.n_columns, columns, head.columns)
        if head.takes_missing:
            reached = replace(reached, imputed=reached.used)
        front = FrontEnd(names, named, reached, dtype, reader)
        inherited = not self._models.knows(type(parts.estimator))
        network = NeuralizedModel(
            parts.estimator, parts.transform, front, reached, head, score, dtype, model, inherited
        )
        network.columns = None if columns is None else tuple(columns)
        if inherited and not reached.vocabulary.codes and reader is None:
            _compared_early(network)
        return network

    def _on_features(self, model: Any, score: Any, dtype: Any, features: torch.nn.Module, data: Any) -> FeatureHead:
        from backlight.classical.heads import Center, FeatureHead

        if data is None:
            raise ArgumentError("a head on features needs data=, the inputs whose features it was fitted on")
        head = Center(model) if isinstance(model, np.ndarray | torch.Tensor) else model
        return FeatureHead(self(head, score=score, dtype=dtype), features, data)

    def head(self, estimator: Any) -> ModelSpec:
        """What the registered function says of a fitted estimator."""
        function = self._models.find(estimator)
        if function is None:
            why = _NOT_A_NETWORK.get(public_name(type(estimator)))
            if why is not None:
                raise UnsupportedModel(f"{type(estimator).__name__} has no network: {why}")
            raise UnsupportedModel(_unknown(estimator))
        check_fitted(estimator)
        try:
            return function(estimator)
        except AttributeError as error:
            # a Gaussian process predicts its prior before it is fitted, and has learnt nothing that could be read
            if error.obj is estimator and str(error.name).endswith("_"):
                raise _unfitted(estimator) from error
            raise


def _travelling(network: NeuralizedModel) -> tuple[Any, ...]:
    """A network travels as the model that it was made of, and with what was changed in it since."""
    made = (network._whole, network.score.name, network.dtype, network.columns)
    return _arrived, (*made, {name: value.cpu() for name, value in network.state_dict().items()}, network.training)


def _arrived(
    model: Any,
    score: str,
    dtype: torch.dtype,
    columns: tuple[str, ...] | None,
    tensors: dict[str, Any],
    training: bool,
) -> NeuralizedModel:
    network = neuralize(model, score=score, dtype=dtype, columns=columns)
    own = network.state_dict()
    if any(not torch.equal(value, own[name]) for name, value in tensors.items()):
        network.load_state_dict(tensors)
    return network.train(training)


# Its layers are built of functions, which pickle cannot name.
copyreg.pickle(NeuralizedModel, _travelling)

_PRIVATE = "backlight.classical.frontend.pipeline.Collapsed"
_NO_SCORE = "it has no score for new rows; give its labels to backlight.classical.KernelClusters(...).fit(X, labels)"
_NOT_A_NETWORK = {
    **{
        f"sklearn.cluster.{name}": _NO_SCORE
        for name in (
            "HDBSCAN",
            "OPTICS",
            "AgglomerativeClustering",
            "SpectralClustering",
        )
    },
    "sklearn.cluster.Birch": (
        "a cluster is many subclusters, which merges have labelled; give its labels to "
        "backlight.classical.KernelClusters(...).fit(X, labels)"
    ),
    "sklearn.decomposition.KernelPCA": (
        "it has coordinates and no score; put Nystroem before a linear model, which is one exact network with it"
    ),
    "sklearn.ensemble.AdaBoostRegressor": "a weighted median of trees is a step function; explain its estimators_",
    **{
        f"sklearn.model_selection.{name}": (
            "it moves the line between the classes and keeps the score; explain its estimator_, and name the class as "
            "target"
        )
        for name in ("TunedThresholdClassifierCV", "FixedThresholdClassifier")
    },
    **{
        f"sklearn.multiclass.{name}": "it counts votes, step functions of its members; explain its estimators_"
        for name in ("OneVsOneClassifier", "OutputCodeClassifier")
    },
    **{
        f"sklearn.neighbors.Radius{name}": f"the number of rows in a ball is a step function; use K{name}"
        for name in ("NeighborsClassifier", "NeighborsRegressor")
    },
    **{
        f"sklearn.dummy.{name}": "it looks at no column; explain a model that does"
        for name in ("DummyClassifier", "DummyRegressor")
    },
    **{
        f"sklearn.semi_supervised.{name}": (
            "its probabilities are ratios of kernel sums that end in 0 and 1; fit SVC or KNeighborsClassifier to its "
            "transduction_"
        )
        for name in ("LabelPropagation", "LabelSpreading")
    },
    "sklearn.cluster.FeatureAgglomeration": "it makes columns and has no score; put a model behind it in a pipeline",
    "sklearn.neighbors.KNeighborsTransformer": "it makes a graph and has no score; use NearestNeighbors",
    "hdbscan.hdbscan_.HDBSCAN": _NO_SCORE,
    "hdbscan.HDBSCAN": _NO_SCORE,
    "sklearn.kernel_approximation.RBFSampler": "random cosines have no rule that conserves; use Nystroem instead",
}


def _unknown(thing: Any) -> str:
    """Why a thing that no function is registered for is not explained, and what to do."""
    name = public_name(type(thing))
    if isinstance(thing, str | bytes | os.PathLike):
        return f"{thing!r:.60} is the name of a file, not a model: load the model first"
    if isinstance(thing, type):
        return f"{thing.__name__} is a class, not a fitted model: make one and call its fit(X) first"
    if hasattr(thing, "tokenizer") and hasattr(thing, "model"):
        return f"a {type(thing).__name__} holds a model: backlight.text.explain takes its .model, .tokenizer and texts"
    owner = getattr(thing, "__self__", None)
    if owner is not None and callable(thing):
        method = getattr(thing, "__name__", "it")
        return f"{method} is a method: give the {type(owner).__name__} itself, and say which score= is wanted"
    if callable(thing) and not hasattr(thing, "fit"):
        return f"a {type(thing).__name__} cannot be looked into: give a fitted estimator or a torch.nn.Module"
    if hasattr(thing, "learn_one"):
        return f"{name[-60:]} learns dicts one by one, and has no table: fit scikit-learn's model of that kind"
    if not hasattr(thing, "fit"):
        return f"a {name:.80} is no model: give a fitted estimator, a Pipeline or a torch.nn.Module"
    return (
        f"no exact network is known for {name[-70:]}: register one with backlight.neuralize.register, or choose from "
        "backlight.neuralize.supported"
    )


def _compared_early(network: NeuralizedModel) -> None:
    """Compare a network that a class inherits with its methods on made rows, where they take such rows."""
    rows = np.random.default_rng(0).normal(size=(4, len(network.feature_names)))
    try:
        with trust.quiet():
            network.reference_score(rows)
    except Exception:
        return
    network.compare(rows)


def check_fitted(estimator: Any) -> None:
    """Refuse an estimator that was not fitted."""
    if not is_fitted(estimator):
        raise _unfitted(estimator)


def _unfitted(estimator: Any) -> NotFittedModel:
    return NotFittedModel(f"{type(estimator).__name__} is not fitted: call its fit(X) first")


neuralize = Neuralize()


def spec_of(estimator: Any) -> ModelSpec:
    """What is known of a fitted estimator: see `Neuralize.head`."""
    return neuralize.head(estimator)
