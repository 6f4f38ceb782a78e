"""`Prototypes`: what was found, judged, explained, drawn and stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from backlight._explain import explain
from backlight._prototype.attribution import account
from backlight._prototype.data import PrototypeData
from backlight._prototype.evaluation import Evaluation, judge
from backlight._prototype.plots import Plots
from backlight._prototype.regularization_path import Path as StrengthPath
from backlight._prototype.regularization_path import follow
from backlight._prototype.storage import load, replayed, save
from backlight.arguments import checked
from backlight.errors import ArgumentError, listed, reading
from backlight.explanation import Explanation
from backlight.hints import ModelLike, RowsLike

__all__ = ["Prototypes"]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Prototypes(PrototypeData):
    """Inputs that a model looks for, one for each target.

    Attributes
    ----------
    x : (targets, \\*shape)
        The inputs, in the user's units.
    z : (targets, k) or None
        Their codes, in a space with a code.
    f, omega, value : (targets,)
        What is maximised, the prior's energy Ω, and f − strength · Ω, all of them at ``x`` by the model itself.
    status : tuple of str
        How it was found: "exact", "global" (within the certificate), "local", "stationary", "max_iter", "dead_start",
        "interrupted"; "unbounded" and "infeasible" (proved), "not_found" (a search ended with nothing).
    flags : tuple of tuples of str
        What is wrong with it, whatever its status: "wrong_class" (the model sees another class in it), "off_prior"
        (less plausible than anything the prior knows).
    certificate : tuple of Certificate
    names : tuple of str
        The targets.
    decided : tuple of str
        What the model decides at each; empty strings where it does not classify.
    feature_names : tuple of str
    optima : tuple of lists of (value, hits)
        Distinct optima of the restarts.
    notes : tuple of lists of str
        What is worth knowing, in sentences.
    strength : float
    center : (\\*shape) or None
        The prior's centre, or the mean of the data: what ``moved`` counts from.
    provenance : dict
        Model, prior, space, versions, seed, fingerprint.
    """

    def evaluate(self, X: RowsLike, y: Any = None, judges: Sequence[Any] = ()) -> Evaluation:
        """Judge the prototypes by data and models that had no part in making them.

        Parameters
        ----------
        X : rows of the model's inputs, best held out
        y : labels, optional
            Names of the outputs, or their indices: for the class means and the nearest row of the class.
        judges : models
            Independent classifiers of the same classes: modules that give logits, estimators with ``predict_proba``.

        Returns
        -------
        Evaluation
            For every prototype, and beside it for the class mean and the row that the model likes best: the model's
            own confidence, the mean confidence of the judges (transfer), the rank of its likelihood among the rows,
            and its distance from the nearest row.
        """
        _, problems = self._live()
        return judge(self, problems, X, y, judges)

    @checked
    def nearest(self, X: RowsLike, k: int = 5) -> tuple[np.ndarray, np.ndarray]:
        """The k rows nearest to each prototype, and their distances, (targets, k) each.

        Columns of a table count in their standard deviations among the rows; pixels as they are.
        """
        _, problems = self._live()
        rows = problems[0].subject.encode(X).flatten(1).double().numpy()
        if k < 1 or k > len(rows):
            raise ArgumentError(f"k={k} must be from 1 to the {len(rows)} rows")
        flat = self.x.reshape(len(self), -1).astype(float)
        if rows.shape[1] != flat.shape[1]:
            raise ArgumentError(f"rows have {rows.shape[1]} numbers, prototypes {flat.shape[1]}")
        scale = np.ones(rows.shape[1])
        if self.x.ndim == 2:
            scale = np.where(rows.std(0) > 0, rows.std(0), 1.0)
        from scipy.spatial.distance import cdist

        far = cdist(flat / scale, rows / scale)
        order = np.argsort(far, axis=1, kind="stable")[:, :k]
        return order, np.take_along_axis(far, order, 1)

    @checked
    def explain(self, method: str = "account", **options: Any) -> Explanation:
        """Which features pay, and which cost.

        Parameters
        ----------
        method : str
            ``"account"``: what f gains and what strength · Ω costs, feature by feature, both counted from the centre of
            the prior by integrated gradients along the straight line (Sundararajan, Taly, Yan, 2017). The two outputs
            add up to the differences; for linear f and a Gaussian, :math:`w_i (x_i^*-\\mu_i)` and half of it, exactly.
            Any other method is handed to `backlight.explain`, of f at the prototypes.
        options
            For `backlight.explain`.

        Returns
        -------
        Explanation
            One row a target.
        """
        setup, problems = self._live()
        if method == "account":
            return account(self, problems)
        wanted = [p.objective.wanted for p in problems]
        if any(k is None for k in wanted):
            raise ArgumentError(f"method={method!r} explains classes; these targets are {listed(self.names)}")
        several = len(problems[0].subject.outputs) > 1
        target = np.array(wanted, dtype=int) if several else None
        of = problems[0].subject.categories
        rows = self.x if of is None or not of.groups else of.frame(self.x)
        return explain(setup.model, rows, target, method=method, **options)

    def path(self, strengths: Sequence[float] = (0.1, 0.3, 1.0, 3.0, 10.0)) -> StrengthPath:
        """The same prototypes at other strengths of the prior, each started from its neighbour too."""
        self._live()
        return follow(self, strengths)

    @property
    def plot(self) -> Plots:
        """Pictures, with matplotlib: ``p.plot()``, ``p.plot.energy()``, ``p.plot.restarts()``."""
        return Plots(self)

    # -- files -----------------------------------------------------------------------------------------------------

    @checked
    def save(self, path: str | Path, *, force: bool = False) -> None:
        """Write everything that is needed to look at the prototypes again, and to make them again: ``.safetensors``."""
        save(self, Path(path), force=force)

    @classmethod
    @checked
    def load(cls, path: str | Path) -> Prototypes:
        """Read what `save` wrote. No code is run from the file."""
        with reading(Path(path), "prototypes"):
            return cls(**load(Path(path)))

    def replay(self, model: ModelLike, **options: Any) -> Prototypes:
        """Make loaded prototypes again with the model, bit for bit on the same machine.

        Parameters
        ----------
        model : the same model; its fingerprint is compared
        options
            What a file cannot hold: a ``prior``, ``space`` or ``target`` made of functions, large ``data``.
        """
        return Prototypes.made(replayed(self, model, options))
