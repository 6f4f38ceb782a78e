r"""Gaussian processes: the mean of a regression, the latent mean of a classifier.

:math:`f(x) = m + \sum_j \beta_j k(x, u_j)` over the training rows, with a covariance k made of sums and products. A sum
of kernels is a sum of expansions; a product is one kernel where that has a form:

* a constant times anything; white noise times anything is nothing between different rows;
* Gaussians with length scales a, b: one with :math:`1/l_i^2 = 1/a_i^2 + 1/b_i^2`;
* radial kernels of the same distance up to a factor: :math:`-\log k = \psi_1 + \psi_2`;
* powers of these.

Length scales of their own for each column (automatic relevance determination) are a scaling of the columns before the
distance, so that relevance passes as through any scaler. A dot product :math:`\sigma_0^2 + x\cdot u`, or a power of
one, is a polynomial kernel.

A classifier's decision is the sign of its latent mean (Rasmussen and Williams 2006, section 3.4), an expansion with
:math:`\beta = y - \pi`; its probabilities also depend on the variance and are not explained.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from backlight.classical.families.expansions import expansion, levelled, numbered, side_by_side
from backlight.classical.families.kernels import Kernel, at_length, of_process
from backlight.classical.families.scores import plain, predicted
from backlight.classical.families.svm import dense
from backlight.classical.functions import Scaled, Together
from backlight.classical.layers import Layer
from backlight.classical.layers.composition import Member, Weighted
from backlight.classical.layers.energies import Polynomial
from backlight.classical.layers.linear import tensor
from backlight.classical.network import Inputs, ModelSpec
from backlight.classical.neuralize import neuralize
from backlight.classical.targets import Outputs
from backlight.errors import UnsupportedOption

__all__ = ["gaussian_process", "gaussian_process_classifier"]


@dataclass(frozen=True, slots=True, eq=False)
class Term:
    """factor · k: k a radial kernel of ‖(x − u)/lengths‖², or (x·u + offset)^degree, or 1."""

    factor: float
    kernel: Kernel | None = None
    lengths: np.ndarray = field(default_factory=lambda: np.ones(0))
    offset: float = 0.0
    degree: int = 0

    @property
    def name(self) -> str:
        """For people."""
        if self.kernel is not None:
            return self.kernel.name
        return "constant" if not self.degree else "dot product" if self.degree == 1 else f"polynomial {self.degree}"


@neuralize.register("sklearn.gaussian_process.GaussianProcessRegressor")
def gaussian_process(estimator: Any) -> ModelSpec:
    """Neuralize the mean of a Gaussian process."""
    anchors, dual = dense(estimator.X_train_), np.atleast_2d(np.asarray(estimator.alpha_).T)
    # private: normalize_y's mean and spread
    scale = np.broadcast_to(np.ravel(estimator._y_train_std), len(dual))
    mean = np.broadcast_to(np.ravel(estimator._y_train_mean), len(dual))
    terms = _terms(estimator.kernel_, anchors.shape[1], type(estimator).__name__)
    each = [_layer(terms, anchors, float(s) * row, float(m)) for s, row, m in zip(scale, dual, mean, strict=True)]
    score = plain("predict", side_by_side(each), predicted, numbered(len(dual)))
    return ModelSpec(f"Gaussian process mean ({_names(terms)}, {len(anchors)} rows)", {"predict": score})


@neuralize.register("sklearn.gaussian_process.GaussianProcessClassifier")
def gaussian_process_classifier(estimator: Any) -> ModelSpec:
    """Neuralize the latent mean of a Gaussian process classifier of two classes."""
    if len(estimator.classes_) > 2:
        raise UnsupportedOption(
            f"GaussianProcessClassifier with {len(estimator.classes_)} classes compares probabilities, which depend on "
            f"variances: fit one that tells two apart, such as y == {estimator.classes_.tolist()[0]!r}"
        )
    base = estimator.base_estimator_
    anchors, beta = dense(base.X_train_), np.asarray(base.y_train_ - base.pi_, dtype=float)
    terms = _terms(base.kernel_, anchors.shape[1], type(estimator).__name__)

    def latent(model: Any, z: Any) -> np.ndarray:
        inner = model.base_estimator_
        return np.asarray(inner.kernel_(dense(z), inner.X_train_) @ (inner.y_train_ - inner.pi_))

    score = plain("latent_mean", _layer(terms, anchors, beta, 0.0), latent, Outputs.binary(estimator.classes_))
    kind = f"Gaussian process classifier ({_names(terms)}, {len(anchors)} rows)"
    return ModelSpec(kind, {"latent_mean": score})


def _names(terms: list[Term]) -> str:
    return " + ".join(term.name for term in terms)


# -- from covariances to terms -------------------------------------------------------------------------------------


def _terms(kernel: Any, n_columns: int, model: str) -> list[Term]:
    """The covariance between different rows, as a sum."""
    found = _read(kernel, n_columns, model)
    if all(term.kernel is None and term.degree == 0 for term in found):
        raise UnsupportedOption(f"{model}(kernel={kernel}) is constant in every column: there is nothing to explain")
    return found


def _read(kernel: Any, n_columns: int, model: str) -> list[Term]:
    name = type(kernel).__name__
    if name == "WhiteKernel":
        return []
    if name == "ConstantKernel":
        return [Term(float(kernel.constant_value))]
    if name == "DotProduct":
        return [Term(1.0, offset=float(kernel.sigma_0) ** 2, degree=1)]
    if name == "Sum":
        return [*_read(kernel.k1, n_columns, model), *_read(kernel.k2, n_columns, model)]
    if name == "Product":
        left, right = _read(kernel.k1, n_columns, model), _read(kernel.k2, n_columns, model)
        return [_product(a, b, kernel, model) for a in left for b in right]
    if name == "Exponentiation":
        inner = _read(kernel.kernel, n_columns, model)
        if len(inner) > 1:  # the power of a sum
            raise _no(kernel, model)
        return [_power(term, kernel.exponent, kernel, model) for term in inner]
    radial = of_process(kernel)
    if radial is None:
        raise _no(kernel, model)
    lengths = np.broadcast_to(np.asarray(kernel.length_scale, dtype=float), n_columns)
    return [Term(1.0, radial, lengths)]


def _no(kernel: Any, model: str) -> UnsupportedOption:
    return UnsupportedOption(
        f"{model}(kernel={kernel}) has no network: fit it with sums, and products of a constant or of kernels of one "
        "distance, of RBF, Matern(nu=0.5, 1.5, 2.5 or inf), RationalQuadratic, DotProduct, ConstantKernel, WhiteKernel"
    )


def _product(a: Term, b: Term, kernel: Any, model: str) -> Term:
    factor = a.factor * b.factor
    for one, other in ((a, b), (b, a)):
        if one.kernel is None and not one.degree:
            return Term(factor, other.kernel, other.lengths, other.offset, other.degree)
    if a.kernel is None and b.kernel is None and a.offset == b.offset:
        return Term(factor, offset=a.offset, degree=a.degree + b.degree)
    if a.kernel is None or b.kernel is None:
        raise _no(kernel, model)
    if a.kernel.gamma is not None and b.kernel.gamma is not None:
        return Term(factor, a.kernel, 1 / np.sqrt(a.lengths**-2 + b.lengths**-2))
    ratios = b.lengths / a.lengths
    if np.ptp(ratios) > 1e-12 * ratios[0]:
        raise _no(kernel, model)
    first, second = a.kernel, at_length(b.kernel, float(ratios[0]))
    # a sum of concave functions is one
    both = Kernel(f"{first.name} · {second.name}", Together(first.profile, second.profile), concave=True)
    return Term(factor, both, a.lengths)


def _power(term: Term, exponent: float, kernel: Any, model: str) -> Term:
    if exponent <= 0:
        raise _no(kernel, model)
    factor = term.factor**exponent
    if term.kernel is None:
        if term.degree and exponent != int(exponent):
            raise _no(kernel, model)
        return Term(factor, offset=term.offset, degree=term.degree * int(exponent) if term.degree else 0)
    inner = term.kernel
    if inner.gamma is not None:
        return Term(factor, inner, term.lengths / np.sqrt(exponent))
    raised = Kernel(f"{inner.name}^{exponent:g}", Scaled(float(exponent), inner.profile), concave=True)
    return Term(factor, raised, term.lengths)


# -- from terms to layers ------------------------------------------------------------------------------------------


def _layer(terms: list[Term], anchors: np.ndarray, beta: np.ndarray, mean: float) -> Callable[[Inputs], Layer]:
    term, kernel = terms[0], terms[0].kernel
    if len(terms) == 1 and kernel is not None:  # counted from the mean, or from any level
        return levelled(lambda b, inputs: _radial(kernel, term, anchors, beta, b, inputs), mean)
    constant = mean + sum(term.factor * float(beta.sum()) for term in terms if not (term.kernel or term.degree))

    def make(inputs: Inputs) -> Layer:
        layers: list[Layer] = []
        for term in terms:
            if term.kernel is not None:
                layers.append(_radial(term.kernel, term, anchors, beta, 0.0, inputs))
            elif term.degree:
                layers.append(
                    Polynomial(
                        tensor(anchors), tensor(term.factor * beta[None]), tensor([0.0]), 1.0, term.offset,
                        term.degree, inputs.pullback,
                    )
                )  # fmt: skip
        return Weighted(layers, tensor(np.ones(len(layers))), tensor([constant]))

    return make


def _radial(
    kernel: Kernel, term: Term, anchors: np.ndarray, beta: np.ndarray, intercept: float, inputs: Inputs
) -> Layer:
    """An expansion of one radial kernel; with length scales a column, behind a scaling."""
    beta, first = term.factor * beta, float(term.lengths[0])
    if bool((term.lengths == first).all()):
        return expansion(at_length(kernel, first), anchors, beta, intercept, inputs)
    elements, behind = inputs.behind(inputs.features.scaled(np.zeros(len(term.lengths)), np.array(term.lengths)))
    return Member(elements, behind.pullback, expansion(kernel, anchors / term.lengths, beta, intercept, behind))
