"""Pipelines and column transformers: which layers a table goes through, with every column kept track of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from backlight.classical.frontend.columns import TableReader
from backlight.classical.frontend.features import Features, MultiplyAdd, Vocabulary
from backlight.classical.frontend.preprocessing import transformers
from backlight.classical.frontend.text_tables import Texts
from backlight.classical.frontend.texts import members_of, reads_texts, spread
from backlight.classical.registry import public_name
from backlight.errors import NotFittedModel, UnsupportedModel

__all__ = ["Collapsed", "ColumnsUnknown", "Parts", "carry", "front_features", "is_fitted", "unwrap"]


@dataclass(frozen=True, slots=True)
class Parts:
    """A model taken apart: transformers, the estimator at the end, and the whole.

    ``names`` are those of the table's columns where the whole was given them and its first part was not.
    """

    model: Any
    steps: tuple[Any, ...]
    estimator: Any
    transform: Callable[[Any], Any]
    names: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Collapsed:
    """A kernel map and the estimator after it, which are one network: a sum over the map's own rows."""

    kernel_map: Any
    estimator: Any

    @property
    def classes_(self) -> Any:
        """The estimator's."""
        return self.estimator.classes_

    def call(self, method: str, z: Any) -> Any:
        """A method of the estimator, on rows before the map."""
        return getattr(self.estimator, method)(self.kernel_map.transform(z))

    def decision_function(self, z: Any) -> Any:
        """As the pipeline of the two."""
        return self.call("decision_function", z)

    def predict_proba(self, z: Any) -> Any:
        """As the pipeline of the two."""
        return self.call("predict_proba", z)


# Models that chose another one, or hold it, and answer with it unchanged: the attribute that it is found in.
META_ESTIMATORS = {
    "sklearn.frozen.FrozenEstimator": "estimator",
    "sklearn.model_selection.BaseSearchCV": "best_estimator_",  # of every search, also of other libraries
    "sklearn.linear_model.RANSACRegressor": "estimator_",
    "sklearn.semi_supervised.SelfTrainingClassifier": "estimator_",
}

_PIPELINES = ("sklearn.pipeline.Pipeline", "imblearn.pipeline.Pipeline")
# Models that choose columns and fit another model to those.
_SELECTING = ("sklearn.feature_selection.RFE", "sklearn.feature_selection.RFECV")


def unwrap_meta(model: Any) -> Any:
    """The model inside a holder; any other model itself."""
    names = map(public_name, type(model).__mro__)
    attribute = next((META_ESTIMATORS[name] for name in names if name in META_ESTIMATORS), None)
    if attribute is None:
        return model
    if not hasattr(model, attribute):
        wanted = "fit it with refit=True" if attribute == "best_estimator_" else "call its fit first"
        raise NotFittedModel(f"{type(model).__name__} has no {attribute}: {wanted}")
    return getattr(model, attribute)


def _renamed(holder: Any, parts: Parts) -> Parts:
    """The parts of what a holder holds, with the holder's names of columns where it handed on an array without them."""
    names = getattr(holder, "feature_names_in_", None)
    if names is None or hasattr(_first(parts), "feature_names_in_"):
        return parts
    return replace(
        parts, names=tuple(str(name) for name in names), transform=lambda X: parts.transform(_without_names(X))
    )


def _without_names(X: Any) -> Any:
    return X if hasattr(X, "toarray") else np.asarray(X)


def _first(parts: Parts) -> Any:
    """The part that sees the table."""
    first = parts.steps[0] if parts.steps else parts.estimator
    return first.kernel_map if isinstance(first, Collapsed) else first


def _samples(step: Any) -> bool:
    """Whether a step draws rows when a model is fitted, and does nothing when it predicts."""
    return hasattr(step, "fit_resample") and not hasattr(step, "transform")


def unwrap(model: Any) -> Parts:
    """Split a pipeline into its transformers and its last estimator; a lone estimator has no transformers.

    A search, or another model that answers with one that it holds, is that one.
    """
    held = unwrap_meta(model)
    if held is not model:
        return _renamed(model, unwrap(held))
    if public_name(type(model)) in _SELECTING and hasattr(model, "estimator_"):
        last = unwrap(model.estimator_)
        return Parts(model, (model, *last.steps), last.estimator, lambda X: last.transform(model.transform(X)))
    if public_name(type(model)) not in _PIPELINES:
        return Parts(model, (), model, lambda X: X)
    *before, (_, last) = model.steps
    steps = tuple(step for _, step in before if step is not None and step != "passthrough" and not _samples(step))
    inner = unwrap(last)
    if steps and not inner.steps and public_name(type(steps[-1])) == "sklearn.kernel_approximation.Nystroem":
        inner = Parts(model, (), Collapsed(steps[-1], inner.estimator), lambda X: X)
        steps = steps[:-1]

    def transform(X: Any) -> Any:
        for step in steps:
            X = step.transform(X)
        return inner.transform(X)

    return Parts(model, (*steps, *inner.steps), inner.estimator, transform)


class ColumnsUnknown(UnsupportedModel):
    """A model that takes any number of columns, as far as it says."""


def _width(parts: Parts, counted: int | None) -> int:
    """How many columns the table has: what the first part says, else what is known of the model after it."""
    first = _first(parts)
    width = getattr(first, "n_features_in_", None) or None  # a model of CatBoost that was loaded counts none
    if width is None and hasattr(first, "_BaseLibSVM__Xfit"):  # private: with a callable kernel libsvm counts nothing
        width = first._BaseLibSVM__Xfit.shape[1]
    if width is None and first is parts.estimator:
        width = counted
    if width is not None:
        return int(width)
    if not is_fitted(first):
        raise NotFittedModel(f"{type(first).__name__} is not fitted: call fit(X) on the whole model first")
    raise ColumnsUnknown(
        f"{type(first).__name__} does not say how many columns it takes: give n_columns= in its ModelSpec, or call "
        "backlight.neuralize(model, columns=…)"
    )


def is_fitted(estimator: Any) -> bool:
    """Whether an estimator was fitted; one that is not of scikit-learn's kind says so itself, in its own function."""
    from sklearn.base import BaseEstimator
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.validation import check_is_fitted

    if not isinstance(estimator, BaseEstimator):
        return True
    try:
        check_is_fitted(estimator)
    except NotFittedError:
        return False
    return True


def front_features(
    parts: Parts,
    counted: int | None = None,
    columns: Sequence[str] | None = None,
    known: Sequence[str] | None = None,
) -> tuple[tuple[str, ...], bool, Features, TableReader | None]:
    """Names of the table's columns, whether they are the user's, the features that reach the estimator, and a reader.

    The reader makes the table where the user gives something else: texts.

    ``counted`` and ``columns`` speak for a first part that counts no columns itself, and ``known`` are the names that
    the estimator has for them.
    """
    first = _first(parts)
    texts = reads_texts(first)
    width = 1 if texts else _width(parts, counted if columns is None else len(columns))
    given = parts.names or getattr(first, "feature_names_in_", None)
    if given is None and first is parts.estimator:
        given = known
    if given is None and not hasattr(first, "n_features_in_"):
        given = columns
    names = tuple(str(name) for name in given) if given is not None else tuple(f"x{j}" for j in range(width))
    features = _through(parts, Features((), np.arange(width), Vocabulary(start=width), n_columns=width))
    if not features.vocabulary.blocks:
        return names, given is not None, features, None
    features = _through(parts, spread(features, width, texts))
    made = features.vocabulary
    reader = Texts(None if texts else names, given is not None, made.kept or (), tuple(made.blocks))
    return reader.names, True, features, reader


def _through(parts: Parts, features: Features) -> Features:
    """Features behind the steps; a look into members of a model that read texts themselves places their tokens."""
    for step in parts.steps:
        features = carry(step, features)
    if features.width == 1:
        for member in members_of(parts.estimator):
            if reads_texts(member):
                _through(unwrap(member), features)
    return features


def carry(step: Any, features: Features) -> Features:
    """Carry features through one fitted transformer."""
    if step is None or (isinstance(step, str) and step == "passthrough") or _samples(step):
        return features
    function = transformers.find(step)
    if function is None:
        raise UnsupportedModel(
            f"relevance cannot be carried back through {public_name(type(step))[-70:]}: apply it to the table before "
            "fitting, and explain that table"
        )
    return function(step, features)


@transformers.register("sklearn.pipeline.Pipeline")
def _pipeline(step: Any, features: Features) -> Features:
    for _, inner in step.steps:
        features = carry(inner, features)
    return features


@transformers.register("sklearn.frozen.FrozenEstimator")
def _frozen(step: Any, features: Features) -> Features:
    return carry(step.estimator, features)


@transformers.register("sklearn.pipeline.FeatureUnion")
def _feature_union(step: Any, features: Features) -> Features:
    weights = step.transformer_weights or {}
    blocks = [
        _weighted(carry(inner, features), weights.get(name))
        for name, inner in step.transformer_list
        if not (isinstance(inner, str) and inner == "drop")
    ]
    return Features.side_by_side([block for block in blocks if block.width], features.vocabulary)


@transformers.register("sklearn.compose.ColumnTransformer")
def _column_transformer(step: Any, features: Features) -> Features:
    # Private: which input columns each transformer takes, names, masks and callables resolved at fit time.
    positions = step._transformer_to_input_indices
    weights = step.transformer_weights or {}
    blocks = []
    for name, inner, _ in step.transformers_:
        columns = np.asarray(positions[name], dtype=int)
        if (isinstance(inner, str) and inner == "drop") or not len(columns):
            continue
        blocks.append(_weighted(carry(inner, features.pick(columns)), weights.get(name)))
    return Features.side_by_side(blocks, features.vocabulary)


def _weighted(block: Features, weight: float | None) -> Features:
    if weight is None:
        return block
    factor = np.full(block.width, float(weight))
    if block.linear is None:
        return block.then(MultiplyAdd(factor, np.zeros(block.width)))
    return block.scaled(np.zeros(block.width), 1 / factor)
