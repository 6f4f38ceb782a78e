"""`prototype`: one call for every model."""

from __future__ import annotations

from collections.abc import Sequence

from backlight._prototype.maximise import Progress
from backlight._prototype.result import Prototypes
from backlight._prototype.setup import Setup
from backlight.arguments import checked
from backlight.constraints import Constraint
from backlight.hints import BoundsLike, ModelLike, RowsLike, TargetLike
from backlight.priors import Prior
from backlight.spaces import Space

__all__ = ["prototype"]


@checked
def prototype(
    model: ModelLike,
    target: TargetLike = None,
    *,
    prior: Prior | str | None = None,
    data: RowsLike = None,
    strength: float = 1.0,
    space: Space | None = None,
    bounds: BoundsLike = None,
    constraints: Sequence[Constraint] = (),
    init: str | RowsLike = "top",
    restarts: int = 8,
    optimizer: str = "auto",
    exact: str = "prefer",
    seed: int = 0,
    progress: bool | Progress | None = None,
    steps: int | None = None,
    count: int = 1,
    apart: float | None = None,
) -> Prototypes:
    r"""What a model looks for: argmax over x of f(x) − strength · Ω(x).

    Where the maximum is known exactly it is given exactly: linear and quadratic models, mixtures, kernel densities,
    clusterings, trees, small forests and boosting, small ReLU networks; otherwise it is climbed to, from the
    top-activating rows. Every result has a status and a number that says how good it is.

    Parameters
    ----------
    model : fitted scikit-learn estimator or Pipeline, torch.nn.Module, network of `neuralize`, or function of a tensor
        For another score of a scikit-learn model: ``backlight.neuralize(model, score="inlierness")``.
    target : int, str, list, "all", direction, callable or Target, optional
        What is maximised: an output by index or name, several of them, a float vector over the outputs, a function
        from the output to one number a row, or what `backlight.targets` makes: ``logit(3) - logit(8)``,
        ``channel("layer4", [0, 5])``. By default every class of a classifier, the only score of anything else. Classes
        are maximised by their logit.
    prior : Prior or "none", optional
        Ω; see `backlight.priors`. By default the Gaussian of ``data`` (covariance shrunk), in a space with a code
        ``L2(0.5)`` on the code. Without data there is no default: an arbitrary constant would decide the result.
        ``"none"``: bounds alone hold x, also where data are given.
    data : table or tensor, optional
        Rows of the model's inputs: for the default prior, the starts, and to tell whether a result is far off.
    strength : float, default 1
        How much Ω counts; 1 is the maximum a posteriori where Ω is −log p. ``inf``: Ω alone, under constraints.
    space : Space, optional
        How x is written; see `backlight.spaces`.
    bounds : (low, high), dict of column to (low, high), or "data", optional
        Numbers or arrays, None for no bound; ``"data"``: the range of ``data``.
    constraints : sequence, optional
        Of `backlight.constraints`: fixed columns, one-hot groups, whole numbers, linear rules, the decision.
    init : "top", "random", "data", or starts of shape (k, \*shape)
        Where the ascent starts.
    restarts : int
        Starts for each target.
    optimizer : "auto", "lbfgs" or "adam"
        ``"auto"``: L-BFGS, then Adam with a cosine decay.
    exact : "prefer", "require" or "never"
        ``"require"`` raises where no exact solver applies; it also lets a ReLU network be solved by mixed-integer
        programming under bounds.
    seed : int
        For starts and robustness; a generator of its own, the random state of torch and NumPy is left alone.
    progress : bool or callable, optional
        ``True`` writes to the terminal; a callable gets (steps done, steps in all). Interrupting returns the best so
        far, with the status "interrupted".
    steps : int, optional
        Steps of Adam, or evaluations of L-BFGS where that was asked for.
    count : int, default 1
        How many for each target, the best first, where changes are counted from a centre (`priors.Near`, `priors.L1`):
        each next one leaves at least one column unchanged of those that any one before it has changed. Fewer where
        there are no more.
    apart : float, optional
        With ``count``: instead, each answer differs from each before it by at least so many standard deviations of the
        data in some column, or in a category. `priors.Near` moves nearly every column, and wants this.

    Returns
    -------
    Prototypes

    Raises
    ------
    Unbounded, Infeasible
        No target has a solution; where some have, the others are rows of NaN with that status.
    UnsupportedModel, DataError, ArgumentError

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_wine
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> import backlight
    >>> wine = load_wine(as_frame=True)
    >>> model = make_pipeline(StandardScaler(), LogisticRegression()).fit(wine.data, wine.target)
    >>> p = backlight.prototype(model, data=wine.data)
    >>> p.status
    ('exact', 'exact', 'exact')
    >>> p.decided
    ('0', '1', '2')
    """
    given = (constraints,) if isinstance(constraints, Constraint) else tuple(constraints)
    strength = float(strength)
    setup = Setup(
        model,
        target,
        prior,
        data,
        strength,
        space,
        bounds,
        given,
        init,
        restarts,
        optimizer,
        exact,
        seed,
        steps,
        count,
        apart,
    )
    return Prototypes.made(setup, progress)
