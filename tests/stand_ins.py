"""Small stand-ins for the data beside the project, so that a clone without them runs the same tests on the same code.

Each function writes the files that its namesake has, in their form: real data that scikit-learn ships where possible,
made up data otherwise. What they do not have is the real data's difficulty.
"""

import json
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine
from torch.nn import functional as F

MAKERS: dict[str, Callable[[Path], None]] = {}


def stand_in(function):
    MAKERS[function.__name__] = function
    return function


@cache
def folder(name: str) -> Path:
    """The folder of a stand-in, made once a process."""
    path = Path(tempfile.mkdtemp(prefix=f"backlight-{name}-"))
    MAKERS[name](path)
    return path


@stand_in
def adbench(path):
    rng = np.random.default_rng(0)
    widths = {"18_Ionosphere": 32, "23_mammography": 6, "26_optdigits": 64, "2_annthyroid": 6, "31_satimage-2": 36,
              "32_shuttle": 9, "43_WDBC": 30, "45_wine": 13, "4_breastw": 9, "6_cardio": 21}  # fmt: skip
    for name, d in widths.items():
        X = rng.normal(size=(400, d)) @ rng.normal(size=(d, d)) + rng.normal(size=d) * 10
        X[:, ::3] = np.round(X[:, ::3])
        y = np.zeros(400, dtype=int)
        X[:20] += 20 * rng.normal(size=(20, d))
        y[:20] = 1
        np.savez(path / f"{name}.npz", X=X, y=y)


@stand_in
def clustering_named(path):
    for name, load in (("wheat_seeds", load_wine), ("penguins", load_iris), ("new_thyroid", load_breast_cancer)):
        bunch = load()
        np.savez(path / f"{name}.npz", X=bunch.data, y=bunch.target, class_names=np.array(bunch.target_names))


@stand_in
def tep(path):
    """A plant of 52 coupled measurements; a fault moves its root by much and two neighbours by less."""
    rng = np.random.default_rng(0)
    mixing = np.eye(52) + 0.1 * rng.normal(size=(52, 52))
    roots = {"1": 3, "4": 50, "7": 44}
    normal = rng.normal(size=(480, 52)) @ mixing
    faults = []
    for column in roots.values():
        X = rng.normal(size=(200, 52)) @ mixing
        X[100:, column] += 8
        X[100:, [(column + 1) % 52, (column + 2) % 52]] += 3
        faults.append(X)
    np.savez(path / "tep.npz", x_train_normal=normal, x_test_fault=np.stack(faults), fault_id=[int(k) for k in roots])
    truth = {"root": {key: {"columns": [column], "window": [120, 200]} for key, column in roots.items()}}
    (path / "expected_root_variables.json").write_text(json.dumps(truth))


def _digits(side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Scikit-learn's digits, of a height of 20 as in MNIST, in the middle of a black square."""
    images = torch.as_tensor(load_digits().images, dtype=torch.float32)[:, None] / 16
    inner = F.interpolate(images, (20, 20), mode="bilinear")
    margin = (side - 20) // 2
    return F.pad(inner, (margin,) * 4), torch.as_tensor(load_digits().target)


@stand_in
def mnist(path):
    X, y = _digits(28)
    np.savez(path / "mnist.npz", x_train=(X[:, 0] * 255).round().byte().numpy(), y_train=y.numpy())


@stand_in
def mnist_vae(path):
    """A decoder sigmoid(W₄ relu(W₃ z)) whose hidden units are z⁺ and z⁻: principal components of the logits."""
    X = _digits(28)[0].flatten(1).double()
    logits = torch.logit(X.clamp(0.02, 0.98))
    mean = logits.mean(0)
    _, sizes, axes = torch.linalg.svd(logits - mean, full_matrices=False)
    scaled = (sizes[:20, None] / len(X) ** 0.5) * axes[:20]
    weights = {
        "fc3.weight": torch.cat([torch.eye(20), -torch.eye(20)]), "fc3.bias": torch.zeros(40),
        "fc4.weight": torch.cat([scaled, -scaled]).T.contiguous(), "fc4.bias": mean,
    }  # fmt: skip
    save_file({name: value.float() for name, value in weights.items()}, path / "vae.safetensors")


@stand_in
def mnist_lenet_relu(path):
    from tests.networks import LeNet

    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = LeNet()
        X, y = _digits(32)
        optimizer = torch.optim.Adam(net.parameters(), 3e-3)
        for _ in range(6):
            for rows in torch.randperm(len(X)).split(64):
                optimizer.zero_grad()
                F.cross_entropy(net(X[rows]), y[rows]).backward()
                optimizer.step()
    save_file({name: value.contiguous() for name, value in net.state_dict().items()}, path / "lenet5_relu.safetensors")


@stand_in
def cifar10_resnet20(path):
    from tests.networks import ResNet20

    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = ResNet20()
        for module in net.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                torch.nn.init.normal_(module.running_mean, std=0.3)
                torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
    save_file({name: value.contiguous() for name, value in net.state_dict().items()}, path / "resnet20.safetensors")
