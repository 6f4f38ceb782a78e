"""Laws that every model, rule and prior keeps, for those who add their own: in the manner of `check_estimator`.

Each function raises an ``AssertionError`` that names the law and the first number that breaks it. The tests of this
package run them over everything that is registered.
"""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["check_neuralized", "check_prior", "check_rule"]


def check_neuralized(estimator: Any, X: Any, *, scores: Any = None) -> None:
    """Check the network of a fitted estimator: exact, conserving, the same row by row, in any order and after a pickle.

    Parameters
    ----------
    estimator : fitted estimator or Pipeline
        Its class is registered with ``backlight.neuralize.register``.
    X : table of shape (n, d), or list of str
        Rows to try it on: rows of the training set, new ones, and far ones. Texts for a model of texts.
    scores : sequence of str, optional
        By default all that it has.

    Raises
    ------
    AssertionError

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.neighbors import KernelDensity
    >>> from backlight.testing import check_neuralized
    >>> X = np.random.default_rng(0).normal(size=(30, 3))
    >>> check_neuralized(KernelDensity().fit(X), X)
    """
    from backlight._explain import Explainer
    from backlight.classical import neuralize
    from backlight.classical.frontend.pipeline import unwrap
    from backlight.classical.neuralize import spec_of
    from backlight.tables import as_frame

    texts = isinstance(X, list) and bool(X) and isinstance(X[0], str)
    frame = neuralize(estimator).front.frame(X) if texts else as_frame(X)
    for score in list(scores or spec_of(unwrap(estimator).estimator).scores):
        network = neuralize(estimator, score=score, columns=None if texts else frame.names)
        known, found = np.asarray(network.reference_score(X)), network(X).detach().numpy()
        _same(f"{score}: the network's score is the model's", found, known, 1e-10, 1e-10)
        explainer = Explainer(network)
        ex = explainer(X)
        _law(bool(np.isfinite(ex.values).all()), f"{score}: relevance is finite")
        parts = np.abs(np.asarray(ex.output)) + np.abs(ex.base_values) + np.abs(ex.values).sum(1)
        if ex.ledger is None or ex.ledger.bias is None:
            worst = int(np.argmax(np.abs(ex.residual) - 1e-9 * parts))
            _law(
                bool(abs(ex.residual[worst]) <= 1e-9 * parts[worst]),
                f"{score}: base and relevance make up the score; row {worst} lacks {ex.residual[worst]:.3g}",
            )
        _check_inner_layers(network, X, ex, score)
        order = np.arange(len(frame))[::-1].copy()
        back = explainer(frame.take(order))
        _same(f"{score}: rows do not see each other", np.asarray(back.values)[order], ex.values, 1e-9, 1e-12)
        one = explainer(frame.take(slice(0, 1)))
        _same(f"{score}: a row alone is explained alike", one.values, ex.values[:1], 1e-9, 1e-12)
        again = pickle.loads(pickle.dumps(explainer))(X)  # noqa: S301 - our own bytes
        _law(bool(np.array_equal(again.values, ex.values)), f"{score}: a pickled explainer explains to the last bit")


def _check_inner_layers(network: Any, X: Any, ex: Any, score: str) -> None:
    """What a layer hands on is what arrives at the layers below it, and at last at the columns."""
    from backlight._explain import Explainer
    from backlight.classical.layers.deep import Deep
    from backlight.classical.layers.inside import places

    known = places(network.layer)
    if not known or any(isinstance(part, Deep) for part in network.layer.modules()):
        return  # of hidden units biases keep some: the engine's own ledger says what
    inner = Explainer(network, layers=list(known))(X)
    _law(np.array_equal(inner.values, ex.values), f"{score}: layers= changes no column's relevance")
    size = np.abs(np.asarray(ex.output)) + np.abs(ex.base_values) + np.abs(ex.values).sum(1)
    size = size + np.max([np.abs(found).sum(1) for found in inner.layers.values()], 0)
    for above in {place.path[:-1] if not place.within else place.path for place in known.values()}:
        arrived = [inner.layers[name].sum(1) for name, place in known.items() if place.path == above]
        whole = np.asarray(arrived[0]) if above else ex.values.sum(1)
        for name, place in known.items():
            if place.within and place.path == above:
                _small(f"{score}: relevance at {name} adds up", inner.layers[name].sum(1) - whole, size)
        children = [n for n, place in known.items() if not place.within and place.path[:-1] == above and place.path]
        if children:
            total = np.sum([inner.layers[name].sum(1) for name in children], 0)
            _small(f"{score}: relevance at {', '.join(children)} adds up", total - whole, size)


def check_rule(rule: Any, *, leak: float | None = None) -> None:
    """Check a rule for layers with weights on small dense layers and convolutions, with inputs of both signs.

    Parameters
    ----------
    rule : LinearRule
    leak : float, optional
        The share of relevance that the rule may lose besides what the bias keeps; by default what its stabiliser takes.

    Raises
    ------
    AssertionError

    Examples
    --------
    >>> from backlight.rules import Gamma
    >>> from backlight.testing import check_rule
    >>> check_rule(Gamma(0.5))
    """
    from backlight.rules import Convolution, Dense, Facts

    again = pickle.loads(pickle.dumps(rule))  # noqa: S301 - our own bytes
    _law(rule == again, f"{rule!r}: a rule compares by value and survives pickle")
    hash(rule)
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    layers = {
        "dense": (Dense(draw(4, 5), draw(4)), (5,)),
        "dense without bias": (Dense(draw(3, 5), None), (5,)),
        "convolution": (Convolution(draw(3, 2, 3, 3), draw(3), (1, 1), (1, 1), (1, 1), False, (0, 0), 1), (2, 5, 5)),
    }
    for name, (layer, shape) in layers.items():
        for nonnegative in (False, True):
            where = f"{rule!r} on {name}, inputs {'≥ 0' if nonnegative else 'of both signs'}"
            a = draw(3, *shape)
            a = a.abs() if nonnegative else a
            _check_layer(rule, layer, a, Facts(nonnegative=nonnegative), where, leak, generator)


def _check_layer(
    rule: Any, layer: Any, a: Tensor, facts: Any, where: str, leak: float | None, generator: torch.Generator
) -> None:
    from backlight.rules import Message, relevance, row_sums

    bound = rule.prepare(layer, facts)
    _law(bool(bound.cost), f"{where}: it says what it costs")
    z = layer.apply(a, layer.weight, layer.bias)
    seed = torch.randn(2, *z.shape, generator=generator, dtype=torch.float64)

    def sent(rows: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        message, kept = bound.pull(a[rows].clone(), z[rows].clone(), Message(gradient.clone()))
        _law(bool(message.direct is None or rule.emits_direct(layer)), f"{where}: it sends what emits_direct says")
        found = relevance(a[rows], message)
        return found, torch.as_tensor(kept, dtype=found.dtype).expand(found.shape[:2])

    everything = slice(None)
    R, kept = sent(everything, seed)
    _law(bool(bool(torch.isfinite(R).all())), f"{where}: relevance is finite")
    one, _ = sent(slice(1, 2), seed[:, 1:2])
    _same(f"{where}: rows do not see each other", one.numpy(), R[:, 1:2].numpy(), 1e-9, 1e-12)
    twice, _ = sent(everything, 2 * seed)
    _same(f"{where}: relevance is linear in what arrives", twice.numpy(), 2 * R.numpy(), 1e-9, 1e-12)
    arriving = row_sums(relevance(z, Message(seed.clone())))
    size = row_sums(relevance(z, Message(seed.clone())).abs()) + row_sums(R.abs())
    allowed = (rule.leak + 4 * rule.epsilon if leak is None else leak) + 1e-9
    missing = (arriving - row_sums(R) - kept).abs() / size
    _law(bool(float(missing.max()) <= allowed), f"{where}: it loses {float(missing.max()):.3g} of the relevance")


def check_prior(prior: Any, x: Any) -> None:
    """Check a prior at some points: one number a row, differentiable, the same row by row, and its slope points up.

    Parameters
    ----------
    prior : Prior
    x : array of shape (n, d)

    Raises
    ------
    AssertionError

    Examples
    --------
    >>> import numpy as np
    >>> from backlight import priors
    >>> from backlight.testing import check_prior
    >>> check_prior(priors.L2(0.5), np.random.default_rng(0).normal(size=(5, 3)))
    """
    rows = torch.as_tensor(np.array(x, dtype=float))
    leaf = rows.clone().requires_grad_()
    energy = prior.energy(leaf)
    _law(bool(energy.shape == (len(rows),)), f"{prior!r}: its energy is one number a row, not {tuple(energy.shape)}")
    _law(bool(bool(torch.isfinite(energy).all())), f"{prior!r}: its energy is finite")
    (slope,) = torch.autograd.grad(energy.sum(), leaf)
    with torch.no_grad():
        alone = torch.cat([prior.energy(row[None]) for row in rows])
        _same(f"{prior!r}: rows do not see each other", alone.numpy(), energy.detach().numpy(), 1e-9, 1e-12)
        step = 1e-6 / slope.flatten(1).norm(dim=1).clamp_min(1e-12)
        higher = prior.energy(rows + slope * step.view(-1, *[1] * (rows.dim() - 1)))
    steep = slope.flatten(1).norm(dim=1) > 1e-6
    _law(bool(bool((higher[steep] >= energy[steep]).all())), f"{prior!r}: its slope points to more energy")


def _small(law: str, gap: Any, size: Any) -> None:
    worst = int(np.argmax((np.abs(gap) - 1e-9 * size).reshape(len(gap), -1).max(1)))
    _law(bool((np.abs(gap) <= 1e-9 * size).all()), f"{law}: row {worst} lacks {np.abs(gap[worst]).max():.3g}")


def _law(holds: bool, law: str) -> None:
    if not holds:
        raise AssertionError(law)


def _same(law: str, found: np.ndarray, wanted: np.ndarray, relative: float, absolute: float) -> None:
    _law(bool(found.shape == wanted.shape), f"{law}: shapes {found.shape} and {wanted.shape}")
    scale = max(1.0, float(np.abs(wanted).max(initial=0.0)))
    off = float(np.abs(found - wanted).max(initial=0.0))
    _law(bool(off <= absolute + relative * scale), f"{law}: off by {off:.3g} of {scale:.3g}")
