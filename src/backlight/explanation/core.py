"""The result of every explanation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from backlight.arguments import checked
from backlight.errors import reading
from backlight.explanation.data import ExplanationData
from backlight.explanation.display import as_html, as_text
from backlight.explanation.images import is_picture, pictures_html
from backlight.explanation.plots import Plots
from backlight.explanation.storage import load, save
from backlight.explanation.text import lines_of
from backlight.explanation.tokens import has_tokens

__all__ = ["Explanation"]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Explanation(ExplanationData):
    """Relevance of each feature for each row, and everything needed to read it.

    ``output = base_values + values.sum(axis=1) + residual`` holds row by row, and each term is reported: nothing is
    rescaled to make it hold.

    Attributes
    ----------
    values : array of shape (n, *features), or (n, *features, targets) for several targets
        Relevance, in the units of ``output``.
    output : array of shape (n,) or (n, targets)
        The explained score, as the model gives it. ``ex.output("fraud")`` is the explanation of that target alone.
    base_values : array like ``output``
        The part of the score that belongs to no feature: offsets, a density's normaliser, entropy, what a row's own
        membership of the training set takes off its score.
    data : array of shape (n, *features), optional
        The inputs, in the user's units.
    feature_names : tuple of str
    output_names : tuple of str
    target, method : str
        What was explained, and how.
    dims : tuple of str
        Names of the axes of ``values``.
    provenance : mapping
        Versions, seed, hashes, plan.
    ledger : Ledger, optional
        Relevance layer by layer.
    annotations : mapping of str to arrays with leading axis n
        Facts about rows or cells, for instance which cells were imputed.
    layers : mapping of str to arrays of shape (n, *units), or (n, *units, targets)
        Relevance at the layers that were asked for.
    labels : array of shape (n,), optional
        What the user calls the rows.
    kind : str
        The kind of table that came in, and that ``to_frame`` gives back.

    Examples
    --------
    >>> import numpy as np
    >>> ex = Explanation(np.array([[1.0, 2.0]]), output=[3.5], base_values=[0.5], feature_names=["a", "b"])
    >>> ex["b"].values
    array([[2.]])
    >>> ex.residual
    array([0.])
    """

    @property
    def plot(self) -> Plots:
        """Plots with matplotlib: ``ex.plot.waterfall(row)``, ``.bar()``, ``.beeswarm()``, ``.heatmap()``."""
        return Plots(self)

    @checked
    def save(self, path: str | Path, *, force: bool = False) -> None:
        """Write to ``.parquet`` (tables) or ``.safetensors`` (any shape). Never pickle; see `load`."""
        save(self, Path(path), force=force)

    @staticmethod
    @checked
    def load(path: str | Path) -> Explanation:
        """Read what `save` wrote."""
        with reading(Path(path), "an explanation"):
            return Explanation(**load(Path(path)))

    def __repr__(self) -> str:
        return as_text(self, lines_of(self) if "token" in self.annotations else None)

    def _repr_html_(self) -> str:
        if len(self) and has_tokens(self) and (self.output.ndim == 1 or len(self) == 1):
            return self.plot.text().html()
        return pictures_html(self) if len(self) and is_picture(self) else as_html(self)
