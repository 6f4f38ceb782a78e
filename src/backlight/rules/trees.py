r"""Rules of trees: how a sum of leaves is shared among the columns that the splits look at.

``shapley``  the exact Shapley values of the tree as a game of its columns. With reference rows a column that is left
             out takes the value that it has in one of them (interventional, the mean over all); without, both branches
             of its splits are followed, weighted by the training rows that took them (path-dependent). Lundberg,
             Erion, Chen, DeGrave et al., "From local explanations to global understanding with explainable AI for
             trees" (Nature Machine Intelligence 2, 2020); by the ``shap`` library.
``path``     each split hands its change of the expected value to its column, along the one path that the row takes:
             :math:`R_i = \sum_{\text{splits on } i} (E[f\mid\text{child}] - E[f\mid\text{node}])`. One pass; the sum
             telescopes to f − E[f]. Saabas, "Interpreting random forests" (2014). What it is not: a split near the
             root, where much is still to be decided, is given less than a split near the leaf that decides the same.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["TREE_RULES", "TreePath", "TreeShapley"]


@dataclass(frozen=True, slots=True)
class TreeShapley:
    """Exact Shapley values of trees."""

    name: str = "shapley"

    @property
    def method(self) -> str:
        """What results are called: a name of the field's own."""
        return "tree_shap"


@dataclass(frozen=True, slots=True)
class TreePath:
    """Changes of the expected value along the path."""

    name: str = "path"

    @property
    def method(self) -> str:
        """What results are called."""
        return "tree_path"


TREE_RULES: dict[str, TreeShapley | TreePath] = {"shapley": TreeShapley(), "path": TreePath()}
