"""Time per explained row, as ratios: to the model's own score, and of shap.KernelExplainer to backlight.

SHAP is set fairly: all features are kept (``l1_reg=False``; its default keeps the ten largest), it samples 2 d + 2048
coalitions as its own default does, the background is ten k-means centres, and it explains the fast network rather than
scikit-learn's slower score. The table says how many features come out non-zero.
"""

from __future__ import annotations

import os

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import time
import warnings
from collections.abc import Callable

import numpy as np
import shap
import torch
from sklearn.neighbors import KernelDensity
from sklearn.svm import OneClassSVM

import backlight

ROWS = 1000
SHAPES = [(100, 10), (500, 10), (2000, 10), (2000, 30), (2000, 100), (8000, 30), (8000, 100), (2000, 800)]


def seconds(work: Callable[[], object], repeats: int = 5) -> float:
    """Least processor time of a few runs."""
    work()
    best = float("inf")
    for _ in range(repeats):
        start = time.process_time()
        work()
        best = min(best, time.process_time() - start)
    return best


def fitted(kind: str, anchors: int, d: int, rng: np.random.Generator) -> OneClassSVM | KernelDensity:
    """A detector with about this many anchors."""
    if kind == "kernel density":
        return KernelDensity(bandwidth=1.0).fit(rng.normal(size=(anchors, d)))
    return OneClassSVM(nu=0.5).fit(rng.normal(size=(2 * anchors, d)))


def shapley(network: backlight.NeuralizedModel, X: np.ndarray, background: np.ndarray) -> tuple[float, int]:
    """Seconds a row and the number of non-zero features of shap.KernelExplainer."""
    explainer = shap.KernelExplainer(lambda Z: network(Z).detach().numpy(), background, silent=True)
    start = time.process_time()
    values = explainer.shap_values(X, l1_reg=False, silent=True)
    return (time.process_time() - start) / len(X), int(np.median((np.abs(values) > 0).sum(1)))


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    print("| detector | anchors M | columns d | explain ÷ own score | own score, µs a row | explain, µs a row "
          "| KernelSHAP ÷ explain | SHAP non-zero |")  # fmt: skip
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for anchors, d in SHAPES:
        for kind in ("one-class SVM", "kernel density"):
            rng = np.random.default_rng(0)
            model = fitted(kind, anchors, d, rng)
            network = backlight.neuralize(model)
            X = rng.normal(size=(ROWS, d)) * 1.2
            own = seconds(lambda m=model, x=X: m.score_samples(x), 3) / ROWS
            ours = seconds(lambda n=network, x=X: backlight.explain(n, x)) / ROWS
            shap_cell, non_zero = "not run", ""
            if d <= 100 and anchors <= 2000:
                slow, count = shapley(network, X[:2], rng.normal(size=(10, d)))
                shap_cell, non_zero = f"{slow / ours:,.0f} ×", f"{count} of {d}"
            print(
                f"| {kind} | {len(network.pool.anchors)} | {d} | {ours / own:.2f} | {1e6 * own:.0f} | {1e6 * ours:.1f} "
                f"| {shap_cell} | {non_zero} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
