"""`Explainer`: a model that is ready to explain, and `explain`, which makes one for one table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from backlight.arguments import checked
from backlight.attribution import Method
from backlight.attribution.requested import Targets, read_targets
from backlight.classical.frontend.pipeline import ColumnsUnknown
from backlight.errors import ArgumentError, FileError
from backlight.explanation import Explanation
from backlight.explanation.faces import as_words
from backlight.hints import (
    DeviceLike,
    LayersLike,
    ModelLike,
    OutputLike,
    ReferenceLike,
    RowsLike,
    RulesLike,
    TargetLike,
)
from backlight.models import Model, Query, explained, open_model, reopened
from backlight.models.explained import Progress
from backlight.models.files import from_bytes, read, to_bytes, write
from backlight.references import Reference
from backlight.tables import as_frame

__all__ = ["Explainer", "explain"]


class Explainer:
    """A model that is ready to explain: everything that can be prepared is prepared once.

    A classical model is read when the explainer is made: fit it again, and make a new explainer. A torch module is
    looked at on every call, and explained as it is then.

    Parameters
    ----------
    model, target, score, rules, reference, method, layers, canonical, strict, device, feature_names, seed
        As of `explain`.
    output : optional
        Which of the things that a module returns is explained.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.svm import OneClassSVM
    >>> import backlight
    >>> X = np.random.default_rng(0).normal(size=(50, 3))
    >>> explainer = backlight.Explainer(OneClassSVM(nu=0.2).fit(X), feature_names=["a", "b", "c"])
    >>> explainer(X[:2]).feature_names
    ('a', 'b', 'c')
    """

    @checked
    def __init__(
        self,
        model: ModelLike,
        target: TargetLike = None,
        *,
        score: str | None = None,
        rules: RulesLike = "auto",
        reference: ReferenceLike = None,
        method: str | Method = "lrp",
        layers: LayersLike = None,
        canonical: bool = False,
        strict: bool = False,
        device: DeviceLike = None,
        feature_names: Sequence[str] | None = None,
        output: OutputLike = None,
        seed: int = 0,
        rows: str = "separate",
    ) -> None:
        self._targets = read_targets(target)
        self._names = None if feature_names is None else tuple(feature_names)
        said = repr(reference) if isinstance(reference, Reference) else None
        self._asked = Query(method, rules, reference, layers, canonical, strict, device, output, seed, said, rows)
        self._given, self._score = model, score
        try:
            self._ready: tuple[Model, Query] | None = self._opened(self._names)
        except ColumnsUnknown:
            if self._names is not None:
                raise
            self._ready = None  # the first table will say

    def _opened(self, columns: Sequence[str] | None) -> tuple[Model, Query]:
        model = open_model(self._given, score=self._score, columns=columns)
        self._targets = model.asked(self._targets)
        return model, model.prepare(self._asked)

    @property
    def reference(self) -> Any:
        """What relevance is counted from, as it was given."""
        return self._asked.reference

    @property
    def targets(self) -> Targets:
        """What is explained, as it was read."""
        return self._targets

    @property
    def feature_names(self) -> tuple[str, ...] | None:
        """The names that were given for data that carry none."""
        return self._names

    @property
    def is_open(self) -> bool:
        """Whether the model is read already: one that counts no columns waits for the first table."""
        return self._ready is not None

    def opened(self, columns: Sequence[str] | None = None) -> tuple[Model, Query]:
        """The model and the prepared query; ``columns`` are for a model that counts none itself.

        Raises
        ------
        ArgumentError
            When it counts none, and none are given.
        """
        if self._ready is None and columns is None:
            raise ArgumentError("this model counts no columns: explain a table first, or give feature_names=")
        return self._opened(columns) if self._ready is None else self._ready

    @checked
    def __call__(
        self, X: RowsLike, batch_size: int | str = "auto", progress: bool | Progress | None = None
    ) -> Explanation:
        """Explain rows; see `explain` for ``X``, ``batch_size`` and ``progress``."""
        if self._ready is None:
            columns = as_frame(X).take(slice(0, 1)).names if hasattr(X, "shape") else None
            self._ready = self._opened(columns)
        model, query = self._ready
        return explained(
            model, X, self._targets, query, batch_size=batch_size, feature_names=self._names, progress=progress
        )

    @property
    def plan(self) -> str:
        """What will run, as lines of text."""
        model, query = self.opened()
        return model.plan(query)

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the model's layers, for ``layers=``."""
        return self.opened()[0].layers

    def _repr_html_(self) -> str:
        return as_words(repr(self))

    def __repr__(self) -> str:
        if self._ready is None:
            return f"Explainer of {type(self._given).__name__}, which counts no columns: the first table will say"
        return f"Explainer of {self.plan}"

    @checked
    def save(self, path: str | Path, *, force: bool = False) -> None:
        """Write one file that holds no code and no pickle; see `load`.

        The network of a classical model is kept whole, without the model that it was made of: neither scikit-learn nor
        the estimator is needed to explain by it, and its explanations are the same to the last bit. A torch module is
        kept as the exported program of what the explainer was called with, and compared before it is written.

        Raises
        ------
        UnsupportedModel
            For what cannot be kept without code: a module that torch cannot export or that is explained otherwise as a
            program, a function of yours, a step that only scikit-learn can compute.
        ExistingFileError
        """
        write(self._as_bytes(), Path(path), force=force)

    def _as_bytes(self) -> bytes:
        model, query = self.opened()
        # a program gives the chosen output alone
        asked = replace(query, output=None)
        return to_bytes({"model": model.kept(query), "query": asked, "targets": self._targets, "names": self._names})

    @classmethod
    @checked
    def load(cls, path: str | Path) -> Explainer:
        """Read what `save` wrote. No code is run from the file.

        Raises
        ------
        MissingFileError, FileError
        """
        found: Explainer = read(Path(path), cls._again)
        return found

    @classmethod
    def _again(cls, kept: dict[str, Any]) -> Explainer:
        explainer = cls.__new__(cls)
        query, targets = kept["query"], kept["targets"]
        if not isinstance(query, Query) or not isinstance(targets, Targets):
            raise FileError("the file does not hold an explainer")
        explainer._targets, explainer._names = targets, kept["names"]
        explainer._asked, explainer._given, explainer._score = query, None, None
        explainer._ready = (reopened(kept["model"]), query)
        return explainer

    def __getstate__(self) -> dict[str, Any]:
        # what came from a file travels as one
        return {"file": self._as_bytes()} if self._given is None else dict(vars(self))

    def __setstate__(self, state: dict[str, Any]) -> None:
        kept = state.get("file")
        vars(self).update(state if kept is None else vars(self._again(from_bytes(kept))))


@checked
def explain(
    model: ModelLike,
    X: RowsLike,
    target: TargetLike = None,
    *,
    method: str | Method = "lrp",
    rules: RulesLike = "auto",
    score: str | None = None,
    reference: ReferenceLike = None,
    layers: LayersLike = None,
    canonical: bool = False,
    strict: bool = False,
    rows: str = "separate",
    batch_size: int | str = "auto",
    device: DeviceLike = None,
    feature_names: Sequence[str] | None = None,
    seed: int = 0,
    output: OutputLike = None,
    progress: bool | Progress | None = None,
) -> Explanation:
    """Explain a model's score: how much each input contributed to it.

    Parameters
    ----------
    model : fitted scikit-learn estimator or Pipeline, torch.nn.Module, exported program, or what `neuralize` returned
        See `neuralize` for the scikit-learn models. A module is explained as it is, and left as it is; it must be in
        evaluation mode where that matters.
    X : table of shape (n, d), tensor of shape (n, *features), or an iterable of such batches
        NumPy, pandas, polars, pyarrow, scipy sparse, torch. For modules also a tuple of several inputs, a dict of
        inputs by name, or a ``DataLoader``, whose batches may be (inputs, labels). Numbers are cast to the module's
        dtype.
    target : int, array of int, callable, direction, list or "all", optional
        What a module's explanation is of. An output's index; one index a row; a function from the output to one number
        a row, such as ``lambda y: y[:, 3] - y[:, 5]``; a float direction over the outputs; a list of these or
        ``"all"``, for which ``values`` get a last axis. An index of outputs with positions, as of a segmentation,
        means the sum over them. By default the predicted class, or the only output. A softmax at the end is not part
        of it: the logit is explained. Of scikit-learn's classifiers and clusterings an index or a name, one index a
        row, a direction, a list or ``"all"``; models with one score have no target.
    method : str or Method, default "lrp"
        For modules also ``"gradient"``, ``"gradient_x_input"``, and with Captum ``"integrated_gradients"``,
        ``"smoothgrad"``, ``"occlusion"``, ``"shapley"``; ``Method("shapley", samples=100)`` gives options.
    rules : str, rule or Composite, default "auto"
        For modules a preset's name (see ``backlight.presets``), a `Composite`, or one rule for all layers; ``"auto"``
        looks at the network, and the plan says why. Models of scikit-learn have the rules of their layers, by name:
        see ``backlight.rules``; for one-class models and densities ``"auto"`` is ``Stable(tau=0.01)``.
    score : str, optional
        Which score of a scikit-learn model is explained; see `neuralize`.
    reference : Reference, table, array, dict or float, optional
        What counts as "nothing here"; a `Reference` is the same object that `backlight.evaluate` judges with.
        Detectors: rows that count as usual, for scores that say how normal a row is ("inlierness"). Linear models and
        trees: rows whose mean relevance is counted from. Kernel regressions: the value it is counted from. Modules: the
        point that counts as "nothing here", one row, by default zero; for several inputs a dict.
    layers : str or sequence of str, optional
        Names or patterns of places (see `plan`) at which relevance is wanted too, in ``ex.layers``. Of other models the
        names of ``Explainer(model).layers``: the distance to each anchor, the trees, the neighbours, the members.
    canonical : bool, default False
        Explain a module's canonical form (see `canonize`), which is the same for every way to write its function: rules
        are bound to its layers, and ``layers`` are named as they are there.
    strict : bool, default False
        Raise where relevance is lost or an operator has no rule, instead of a warning. For detectors: where more than
        1e-9 of a score and its parts is left unexplained.
    rows : {"separate", "joint"}
        Where a module's output for a row depends on other rows (graph layers, centring by the batch, a similarity of
        all pairs), "separate" warns, or raises if strict, since each row of ``values`` is then what it does for all
        scores together. "joint" tells them apart: ``values`` have shape (n, n, *features), and ``values[i, j]`` is what
        the score of row i owes to the inputs of row j; ``output[i]`` is their sum over j and the features, with
        ``base_values[i]`` and the ledger. It takes n ways back, and one batch.
    batch_size : int or "auto"
        Rows at once.
    device : optional
        Where a module's explanation is computed; by default where its parameters are.
    feature_names : sequence of str, optional
        For data that carry no names.
    seed : int
        For the methods that draw at random. The random state of torch and NumPy is left alone.
    output : str, int or callable, optional
        Which of the things that a module returns is explained: a name, a position, or a function of what it returns.
        By default its only tensor, or ``logits``; a target that is a function is given everything that the module
        returns, and needs no choice.
    progress : bool or callable, optional
        ``True`` writes the count of rows to the terminal; a callable gets (rows done, rows in all).

    Returns
    -------
    Explanation
        Tables in the original columns and units: one-hot blocks are summed, imputed cells marked. For modules
        ``values`` have the shape of the inputs; several inputs are one axis of features, one after the other.

    Raises
    ------
    UnsupportedModel, UnsupportedOperator, ConservationError, ColumnsError, DataError, ArgumentError

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from sklearn.neighbors import KernelDensity
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> import backlight
    >>> wine = load_wine()
    >>> model = make_pipeline(StandardScaler(), KernelDensity(bandwidth=0.8)).fit(wine.data)
    >>> ex = backlight.explain(model, wine.data[:2], feature_names=wine.feature_names)
    >>> ex[0].top(1)[0][0][0]
    'proline'
    >>> bool(abs(ex.residual).max() < 1e-9)
    True
    """
    explainer = Explainer(
        model, target, score=score, rules=rules, reference=reference, method=method, layers=layers, canonical=canonical,
        strict=strict, device=device, feature_names=feature_names, seed=seed, output=output, rows=rows,
    )  # fmt: skip
    return explainer(X, batch_size, progress)
