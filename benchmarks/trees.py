"""Trees: Shapley values against enumeration, and the path rule against a ready explainer of `shap`.

`python benchmarks/trees.py` prints, for forests of 100 trees and 1,000 rows: how far interventional values are from
all coalitions written out (eight columns), how far contributions by the path rule are from adding up to the score, its
CPU time in shares of that of a `shap.TreeExplainer` that was made before, and their correlation.
"""

import itertools
import math
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import shap
from sklearn.datasets import load_breast_cancer, make_friedman1
from sklearn.ensemble import (
    ExtraTreesRegressor,
    GradientBoostingRegressor,
    IsolationForest,
    RandomForestClassifier,
    RandomForestRegressor,
)

import backlight


def enumerated(score: Callable[[np.ndarray], np.ndarray], rows: np.ndarray, usual: np.ndarray) -> np.ndarray:
    """Shapley values against reference rows, from the value of every coalition."""
    d = rows.shape[1]
    value = {}
    for bits in itertools.product([False, True], repeat=d):
        mixed = np.where(np.array(bits), rows[:, None], usual[None])
        value[bits] = score(mixed.reshape(-1, d)).reshape(len(rows), len(usual)).mean(1)
    out = np.zeros(rows.shape)
    for bits, without in value.items():
        weight = 1 / (d * math.comb(d - 1, sum(bits))) if sum(bits) < d else 0.0
        for j in np.flatnonzero(~np.array(bits)):
            with_j = (*bits[:j], True, *bits[j + 1 :])
            out[:, j] += weight * (value[with_j] - without)
    return out


def seconds(call: Callable[[], Any], times: int = 3) -> float:
    """CPU seconds of the fastest of some calls."""
    found = []
    for _ in range(times):
        start = time.process_time()
        call()
        found.append(time.process_time() - start)
    return min(found)


def models() -> dict[str, tuple[Any, np.ndarray, int | None]]:
    """Fitted forests of 100 trees, 1,000 rows, and the output that is explained."""
    X, y = make_friedman1(1000, 10, random_state=0)
    Z, labels = load_breast_cancer(return_X_y=True)
    rng = np.random.default_rng(0)
    more = Z[rng.integers(0, len(Z), 1000)] * (1 + 0.01 * rng.normal(size=(1000, Z.shape[1])))
    return {
        "random forest, regression": (RandomForestRegressor(100, random_state=0).fit(X, y), X, None),
        "random forest, depth 8": (RandomForestRegressor(100, max_depth=8, random_state=0).fit(X, y), X, None),
        "extra trees": (ExtraTreesRegressor(100, max_depth=10, random_state=0).fit(X, y), X, None),
        "random forest, two classes": (RandomForestClassifier(100, random_state=0).fit(Z, labels), more, 1),
        "gradient boosting": (GradientBoostingRegressor(random_state=0).fit(X, y), X, None),
        "isolation forest": (IsolationForest(n_estimators=100, random_state=0).fit(Z), more, None),
    }


def main() -> None:
    """Print the table."""
    X, y = make_friedman1(400, 8, random_state=1)
    for model in (
        RandomForestRegressor(20, random_state=0),
        GradientBoostingRegressor(n_estimators=20, random_state=0),
        IsolationForest(n_estimators=20, random_state=0),
    ):
        model.fit(X, y)
        net, rows, usual = backlight.neuralize(model), X[:5], X[100:120]
        off = np.abs(
            backlight.explain(net, rows, reference=usual).values
            - enumerated(lambda z, net=net: net(z).numpy(), rows, usual)
        )
        print(f"interventional values of {type(model).__name__}, d = 8, all 256 coalitions: off by {off.max():.1e}")
    print(f"{'':28} {'path':>8} {'shap':>8} {'ratio':>6} {'adds up':>8} {'correlation':>11}")
    for name, (model, rows, target) in models().items():
        explainer = backlight.Explainer(model, target, rules="path")
        found = explainer(rows)
        ready = shap.TreeExplainer(model)
        values = np.asarray(ready.shap_values(rows, check_additivity=False))
        values = values[..., 1] if values.ndim == 3 else values
        sign = -1 if isinstance(model, IsolationForest) else 1
        left = np.abs(found.residual).max() / np.abs(found.output).max()
        ours = seconds(lambda e=explainer, r=rows: e(r))
        theirs = seconds(lambda e=ready, r=rows: e.shap_values(r, check_additivity=False), 2)
        alike = np.corrcoef(found.values.ravel(), sign * values.ravel())[0, 1]
        print(f"{name:28} {ours:7.2f}s {theirs:7.2f}s {ours / theirs:6.2f} {left:8.0e} {alike:11.3f}", flush=True)


if __name__ == "__main__":
    main()
