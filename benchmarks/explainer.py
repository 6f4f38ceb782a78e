"""What preparing costs, what a call costs, and the first call on a network: ratios, measured in one process.

* *prepared in the call*: ``explain(model, X)`` of 1,000 rows against scikit-learn's own scoring of them, M ≥ 2,000 anchors.
* *through an Explainer*: repeated calls for models that score in under a millisecond, against their own scoring.
* *first call*: a plan for a network that was never seen, against ``torch.export.export`` of it alone.
"""

from __future__ import annotations

import os

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import functools
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.mixture import GaussianMixture
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KernelDensity
from sklearn.svm import OneClassSVM
from torch import Tensor, nn

import backlight

ROWS = 1000


def against(ours: Callable[[], object], own: Callable[[], object], repeats: int) -> tuple[float, float, float]:
    """Median processor time of both and the median of their ratios, run in turn: what else the machine does hits both."""
    times = []
    ours(), own()
    for _ in range(repeats):
        marks = [time.process_time()]
        for work in (ours, own):
            work()
            marks.append(time.process_time())
        times.append((marks[1] - marks[0], marks[2] - marks[1]))
    a, b = np.array(times).T
    return float(np.median(a)), float(np.median(b)), float(np.median(a / b))


def prepared_in_the_call(rng: np.random.Generator) -> None:
    print("prepared in the call, 1,000 rows (bound 0.5)")
    for d in (10, 30, 100):
        models: dict[str, Any] = {
            "one-class SVM": OneClassSVM(nu=0.5).fit(rng.normal(size=(4000, d))),
            "Gaussian density": KernelDensity(bandwidth=1.0).fit(rng.normal(size=(2000, d))),
        }
        X = rng.normal(size=(ROWS, d))
        for name, model in models.items():
            explain = functools.partial(backlight.explain, model, X)
            _, _, ratio = against(explain, functools.partial(model.score_samples, X), 9)
            print(f"  {name:<18}d = {d:<4} {ratio:6.2f}")


def through_an_explainer(rng: np.random.Generator) -> None:
    print("through an Explainer, 1,000 rows, 10 columns (bound 3)")
    X, y = rng.normal(size=(ROWS, 10)), rng.integers(0, 3, ROWS)
    models: dict[str, tuple[Any, str]] = {
        "k-means, 50": (KMeans(50, n_init=1, max_iter=5, random_state=0).fit(X), "transform"),
        "mixture, full": (GaussianMixture(5, max_iter=3, random_state=0).fit(X), "score_samples"),
        "mixture, diagonal": (GaussianMixture(5, covariance_type="diag", max_iter=3).fit(X), "score_samples"),
        "naive Bayes": (GaussianNB().fit(X, y), "predict_joint_log_proba"),
        "logistic": (LogisticRegression(max_iter=20).fit(X, y), "decision_function"),
        "linear": (LinearRegression().fit(X, y), "predict"),
    }
    for name, (model, method) in models.items():
        explainer = backlight.Explainer(model)
        ours, own, ratio = against(functools.partial(explainer, X), functools.partial(getattr(model, method), X), 200)
        print(f"  {name:<20} {own * 1e3:6.3f} ms {ours * 1e3:7.3f} ms {ratio:6.2f}")


class Block(nn.Module):
    """A residual block: two convolutions 3 × 3, or three of which the middle one is narrow; rectifiers in place."""

    def __init__(self, i: int, width: int, stride: int, deep: bool) -> None:
        super().__init__()
        o = 4 * width if deep else width
        shapes = ((i, width, 1, 1), (width, width, 3, stride), (width, o, 1, 1))
        steps: list[nn.Module] = []
        for j, k, size, step in shapes if deep else ((i, width, 3, stride), (width, width, 3, 1)):
            steps += [nn.Conv2d(j, k, size, step, size // 2, bias=False), nn.BatchNorm2d(k), nn.ReLU(inplace=True)]
        self.inner = nn.Sequential(*steps[:-1])
        self.around: nn.Module = nn.Identity()
        if stride != 1 or i != o:
            self.around = nn.Sequential(nn.Conv2d(i, o, 1, stride, bias=False), nn.BatchNorm2d(o))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.inner(x)
        y += self.around(x)
        out: Tensor = self.relu(y)
        return out


def residual_network(depth: list[int], deep: bool) -> nn.Module:
    """ResNet-18 for [2, 2, 2, 2] and shallow blocks, ResNet-50 for [3, 4, 6, 3] and deep ones."""
    layers: list[nn.Module] = [
        nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
    ]  # fmt: skip
    before = 64
    for k, count in enumerate(depth):
        width = 64 * 2**k
        for b in range(count):
            layers.append(Block(before, width, 2 if k and not b else 1, deep))
            before = 4 * width if deep else width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 1000)).eval()


def first_call() -> None:
    """One plan serves any number of rows, so that its export has a free batch axis; the two exports are told apart."""
    print("first call: plan ÷ torch.export.export with a free batch axis (bound 1.5), with that of the example")
    x = torch.randn(2, 3, 64, 64)
    free = ({0: torch.export.Dim.DYNAMIC},)
    backlight.plan(nn.Linear(2, 2).eval(), torch.zeros(1, 2))
    for name, depth, deep in (("ResNet-18", [2, 2, 2, 2], False), ("ResNet-50", [3, 4, 6, 3], True)):
        times = []
        for _ in range(5):
            nets = [residual_network(depth, deep) for _ in range(3)]
            marks = [time.process_time()]
            torch.export.export(nets[0], (x,), dynamic_shapes=free, strict=False)
            marks.append(time.process_time())
            torch.export.export(nets[1], (x,), strict=False)
            marks.append(time.process_time())
            backlight.plan(nets[2], x)
            times.append(np.diff([*marks, time.process_time()]))
        axis, fixed, plan = np.array(times[1:]).T
        print(f"  {name:<12} {np.median(plan):5.2f} s {np.median(plan / axis):6.2f} {np.median(plan / fixed):6.2f}")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    generator = np.random.default_rng(0)
    through_an_explainer(generator)
    prepared_in_the_call(generator)
    first_call()
