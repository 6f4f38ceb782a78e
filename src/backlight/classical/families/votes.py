r"""Models that count their members' votes.

* AdaBoost: each member votes with its weight, "decision_function". Of trees, leaves hold votes and are shared so;
  of other classifiers, a vote is a step of the score that decides it (`backlight.classical.layers.votes.Vote`);
* `VotingClassifier`: "votes", the share of the (weighted) members that name each class; with ``voting="soft"`` the mean
  of their probabilities, see `backlight.classical.families.ensembles`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from backlight.classical.families.ensembles import member, of_members, same_classes, soft_voting
from backlight.classical.families.scores import plain
from backlight.classical.families.trees import boosted, classes_of, layer_of, read_tree, takes_missing
from backlight.classical.layers import Layer
from backlight.classical.layers.composition import Unit, Weighted
from backlight.classical.layers.linear import tensor
from backlight.classical.layers.tree_table import table_of
from backlight.classical.layers.votes import Vote
from backlight.classical.network import Inputs, ModelSpec
from backlight.classical.neuralize import neuralize
from backlight.classical.targets import Outputs

__all__ = ["adaboost", "voting_classifier"]

# Scores whose highest class is the one that a member names.
_DECIDING = ["decision_function", "log_odds", "margin", "logit", "probability"]


def _vote(model: Any) -> Callable[[Inputs], Layer]:
    """The function that makes a member's vote."""
    _, make = member(model, _DECIDING)
    return lambda inputs: Vote(make(inputs))


@neuralize.register("sklearn.ensemble.VotingClassifier")
@of_members
def voting_classifier(estimator: Any) -> ModelSpec:
    """Neuralize `VotingClassifier`."""
    if estimator.voting == "soft":
        return soft_voting(estimator)
    same_classes(estimator, estimator.estimators_)
    makes = [_vote(one) for one in estimator.estimators_]
    given = estimator._weights_not_none  # private: without those of dropped members
    weights = np.ones(len(makes)) if given is None else np.asarray(given, dtype=float)
    weights = weights / weights.sum()

    def shares(model: Any, z: Any) -> np.ndarray:
        named = np.stack([one.predict(z) for one in model.estimators_], 1)  # positions of classes
        return np.asarray((named[:, :, None] == np.arange(len(model.classes_))).transpose(0, 2, 1) @ weights)

    def make(inputs: Inputs) -> Layer:
        return Weighted([each(inputs) for each in makes], tensor(weights))

    score = plain("votes", make, shares, Outputs.each(estimator.classes_))
    return ModelSpec(f"votes of {len(makes)} classifiers", {"votes": score})


@neuralize.register("sklearn.ensemble.AdaBoostClassifier")
def adaboost(estimator: Any) -> ModelSpec:
    """Neuralize AdaBoost: the votes of its members, each with its weight."""
    members = estimator.estimators_
    classes, weights = classes_of(estimator), np.asarray(estimator.estimator_weights_)[: len(members)]
    C = len(classes)
    if all(hasattr(one, "tree_") for one in members):
        trees = []
        for one, weight in zip(members, weights, strict=True):
            vote = np.asarray(one.classes_)[one.tree_.value[:, 0, :].argmax(1)]
            values = np.where(vote[:, None] == estimator.classes_, weight, -weight / (C - 1)) / weights.sum()
            trees.append(read_tree(one.tree_, values[:, 1:] - values[:, :1] if C == 2 else values))
        make = layer_of(table_of(trees), np.zeros(1 if C == 2 else C))
        missing, kind = takes_missing(estimator), f"AdaBoostClassifier ({len(trees)} trees)"
    else:
        same_classes(estimator, members)
        make, missing, kind = _steps(estimator, weights), False, f"AdaBoostClassifier ({len(members)} members)"
    return boosted(estimator, kind, make, None, "softmax" if C == 2 else None, missing)


def _steps(estimator: Any, weights: np.ndarray) -> Callable[[Inputs], Layer]:
    """Σ_m w_m (C/(C − 1) vote_m − 1/(C − 1)), of two classes the second less the first."""
    C = len(estimator.classes_)
    makes, share = [_vote(one) for one in estimator.estimators_], tensor(weights / weights.sum())

    def make(inputs: Inputs) -> Layer:
        votes = [each(inputs) for each in makes]
        if C == 2:
            return Weighted([Unit(vote, 1) for vote in votes], 4 * share, share.new_full((1,), -2.0))
        return Weighted(votes, C / (C - 1) * share, torch.full((C,), -1 / (C - 1), dtype=torch.float64))

    return make
