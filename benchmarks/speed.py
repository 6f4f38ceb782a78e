"""Time per explained row, as ratios: to the model's own score, to a bound, and of other ways to backlight.

The *bound* is what the arithmetic alone would take, measured in the same process: 6 N M d floating-point operations at the
speed of a large matrix product (the squared distances, then the weighted anchors and their squares) and N M exponentials at
the speed of ``torch.exp`` on an array larger than the cache. (Within the cache it is several times that; the chunks are kept
there, but are read and written more than once.) The *naive tensor* forms all differences, (n, M, d), as the formulas are written.

SHAP is set fairly: all features are kept (``l1_reg=False``; its default keeps the ten largest), it samples 2 d + 2048
coalitions as its own default does, the background is ten k-means centres, and it explains the fast network rather than
scikit-learn's slower score. The table says how many features come out non-zero.

The second table has the rest of the family at M ≥ 2000. *Least* is what no explanation can go below, also as a ratio to the
score: the bound above for what is made of Gaussians; for city-block distances all of them twice, since the distance of every
pair is a sum over columns, and its shares are another one, with weights that differ from row to row and so make no matrix
product (at the speed of ``torch.cdist``); for neighbours the score itself, since finding them is the score and an
explanation has to find them too.
"""

from __future__ import annotations

import os

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import shap
import torch
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.metrics.pairwise import laplacian_kernel
from sklearn.neighbors import KernelDensity, KNeighborsClassifier, LocalOutlierFactor
from sklearn.svm import SVC, SVR, OneClassSVM

import backlight

ROWS = 1000
WIDTHS = [10, 30, 100]
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


def speeds() -> tuple[float, float, float]:
    """Operations a second of a matrix product; exponentials a second of an array larger than the cache, and within it."""
    a, b = torch.randn(1024, 1024, dtype=torch.float64), torch.randn(1024, 1024, dtype=torch.float64)
    large, small = torch.randn(1 << 24, dtype=torch.float64), torch.randn(1 << 17, dtype=torch.float64)
    out = torch.empty_like(small)
    within = seconds(lambda: [torch.exp(small, out=out) for _ in range(64)]) / 64
    return 2 * 1024**3 / seconds(lambda: a @ b), len(large) / seconds(lambda: torch.exp(large)), len(small) / within


def naive(model: OneClassSVM | KernelDensity, X: np.ndarray) -> np.ndarray:
    """The same relevance from the tensor of all differences."""
    if isinstance(model, OneClassSVM):
        U, alpha, gamma = model.support_vectors_, model.dual_coef_[0] / model.dual_coef_.sum(), model._gamma
    else:
        U = np.asarray(model.tree_.data)
        alpha, gamma = np.full(len(U), 1 / len(U)), 1 / (2 * model.bandwidth_**2)
    square = gamma * (X[:, None] - U) ** 2
    D = square.sum(2)
    top = D.min(1, keepdims=True)
    p = alpha * np.exp(top - D)
    o = top[:, 0] - np.log(p.sum(1))
    p /= p.sum(1, keepdims=True)
    w = p / (D + 0.01 * (p * D).sum(1, keepdims=True))
    return (w[:, :, None] * square).sum(1) * (o / (w * D).sum(1))[:, None]


def shapley(network: backlight.NeuralizedModel, X: np.ndarray, background: np.ndarray) -> tuple[float, int]:
    """Seconds a row and the number of non-zero features of shap.KernelExplainer."""
    explainer = shap.KernelExplainer(lambda Z: network(Z).detach().numpy(), background, silent=True)
    start = time.process_time()
    values = explainer.shap_values(X, l1_reg=False, silent=True)
    return (time.process_time() - start) / len(X), int(np.median((np.abs(values) > 0).sum(1)))


def others(d: int, rng: np.random.Generator) -> Iterator[tuple[str, Any, str, int, str]]:
    """Fitted models: name, model, the method that scores, anchors, and what bounds an explanation from below."""
    X = rng.normal(size=(4000, d))
    two, three, wave = rng.integers(0, 2, 4000), rng.integers(0, 3, 4000), np.sin(X[:, 0]) + X[:, 1]
    svc, svc3, svr = SVC().fit(X, two), SVC().fit(X, three), SVR().fit(X, wave)
    yield "SVC, 2 classes", svc, "decision_function", len(svc.support_), "gaussians"
    yield "SVC, 3 classes", svc3, "decision_function", len(svc3.support_), "gaussians"
    yield "SVR", svr, "predict", len(svr.support_), "gaussians"
    process = GaussianProcessRegressor(alpha=0.1, optimizer=None).fit(X[:2000], wave[:2000])
    yield "Gaussian process", process, "predict", 2000, "gaussians"
    exponential = KernelDensity(kernel="exponential").fit(X[:2000])
    yield "exponential kernel density", exponential, "score_samples", 2000, "gaussians"
    city = OneClassSVM(kernel=partial(laplacian_kernel, gamma=1 / d)).fit(X)
    yield "one-class SVM, Laplacian", city, "score_samples", len(city.support_), "city blocks"
    yield "local outlier factor", LocalOutlierFactor(novelty=True).fit(X), "score_samples", 4000, "neighbours"
    yield "5 neighbours, 2 classes", KNeighborsClassifier(5).fit(X, two), "predict_proba", 4000, "neighbours"


def print_others(flops: float, exponentials: float) -> None:
    """The second table."""
    print("\n| model | anchors M | columns d | explain ÷ own score | least ÷ own score | own score, µs a row |")
    print("|---|---:|---:|---:|---:|---:|")
    for d in WIDTHS:
        rng = np.random.default_rng(0)
        for name, model, method, count, kind in others(d, rng):
            network = backlight.neuralize(model)
            X = rng.normal(size=(ROWS, d))
            score = getattr(model, method)
            own = seconds(partial(score, X), 3) / ROWS
            ours = seconds(partial(backlight.explain, network, X)) / ROWS
            least = own
            if kind == "gaussians":
                least = 6 * count * d / flops + count / exponentials
            elif kind == "city blocks":
                anchors = torch.tensor(rng.normal(size=(count, d)))
                least = 2 * seconds(partial(torch.cdist, torch.tensor(X), anchors, p=1)) / ROWS
            print(f"| {name} | {count} | {d} | {ours / own:.2f} | {least / own:.2f} | {1e6 * own:.0f} |", flush=True)


def main() -> None:
    """Print the tables."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    flops, exponentials, within = speeds()
    print(
        f"float64, one thread: {flops / 1e9:.0f} Gflop/s, {exponentials / 1e9:.2f} Gexp/s ({within / 1e9:.2f} in cache)\n"
    )
    print("| detector | anchors M | columns d | explain ÷ own score | explain ÷ bound (rule pool; stable) | own score, µs a row "
          "| explain, µs a row | naive tensor ÷ explain | KernelSHAP ÷ explain | SHAP non-zero |")  # fmt: skip
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    for anchors, d in SHAPES:
        for kind in ("one-class SVM", "kernel density"):
            rng = np.random.default_rng(0)
            model = fitted(kind, anchors, d, rng)
            network = backlight.neuralize(model)
            X = rng.normal(size=(ROWS, d)) * 1.2
            own = seconds(lambda m=model, x=X: m.score_samples(x), 3) / ROWS
            ours = seconds(lambda n=network, x=X: backlight.explain(n, x)) / ROWS
            rows = network.layer.training_rows()
            count = 0 if rows is None else len(rows)
            encoded, none = network.encode(X), np.full(ROWS, -1)
            bound = 6 * count * d / flops + count / exponentials
            pool, stable = (
                seconds(lambda r=rule, n=network, x=encoded, o=none: n.relevance(x, n.rule(r), own=o)) / ROWS / bound
                for rule in ("pool", "stable")
            )
            few = X[: max(2, min(50, 40_000_000 // (count * d)))]
            tensor = seconds(lambda m=model, x=few: naive(m, x), 2) / len(few)
            assert np.allclose(naive(model, few), backlight.explain(network, few).values, rtol=1e-6, atol=1e-9)
            shap_cell, non_zero = "not run", ""
            if d <= 100 and anchors <= 2000:
                slow, kept = shapley(network, X[:2], rng.normal(size=(10, d)))
                shap_cell, non_zero = f"{slow / ours:,.0f} ×", f"{kept} of {d}"
            print(
                f"| {kind} | {count} | {d} | {ours / own:.2f} | {pool:.2f}; {stable:.2f} | {1e6 * own:.0f} "
                f"| {1e6 * ours:.1f} | {tensor / ours:.0f} × | {shap_cell} | {non_zero} |",
                flush=True,
            )
    print_others(flops, exponentials)


if __name__ == "__main__":
    main()
