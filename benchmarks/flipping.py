"""Does removing the most relevant patches first lower the score faster than by gradient × input?

Three trained networks, from a folder given on the command line that holds ``imagenet_squeezenet1_0``, ``photos``,
``cifar10_resnet20``, ``cifar10_test_jpeg``, ``mnist_lenet_relu`` and ``mnist``. Half of the patches are removed in 16 steps;
the number is the mean share of the predicted class's logit that is left (lower is better), and its gain over gradient ×
input with a paired bootstrap interval over pictures. What stands in for a removed patch decides much, and is named.

    python benchmarks/flipping.py FOLDER
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

import backlight
from backlight.vision import load_network

warnings.simplefilter("ignore")
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


class Block(nn.Module):
    def __init__(self, i: int, o: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o)
        self.conv2, self.bn2 = nn.Conv2d(o, o, 3, 1, 1, bias=False), nn.BatchNorm2d(o)
        self.stride, self.pad = stride, (o - i) // 2

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        skip = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.pad, self.pad)) if self.stride == 2 else x
        return F.relu(y + skip)


class ResNet20(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*[Block(16, 16, 1) for _ in range(3)])
        self.layer2 = nn.Sequential(Block(16, 32, 2), Block(32, 32, 1), Block(32, 32, 1))
        self.layer3 = nn.Sequential(Block(32, 64, 2), Block(64, 64, 1), Block(64, 64, 1))
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        return self.linear(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))


class LeNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        c = [nn.Conv2d(1, 6, 5), nn.Conv2d(6, 16, 5), nn.Conv2d(16, 120, 5)]
        names = ["c1", "relu1", "s2", "c3", "relu3", "s4", "c5", "relu5"]
        layers = [c[0], nn.ReLU(), nn.MaxPool2d(2), c[1], nn.ReLU(), nn.MaxPool2d(2), c[2], nn.ReLU()]
        self.convnet, self.fc = nn.Sequential(), nn.Sequential()
        for name, layer in zip(names, layers, strict=True):
            self.convnet.add_module(name, layer)
        for name, layer in (("f6", nn.Linear(120, 84)), ("relu6", nn.ReLU()), ("f7", nn.Linear(84, 10))):
            self.fc.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.convnet(x).flatten(1))


def loaded(net: nn.Module, path: Path) -> nn.Module:
    net.load_state_dict(load_file(path), strict=False)
    return net.eval()


def left(net: nn.Module, x: Tensor, relevance: np.ndarray, k: Tensor, patch: int, fill: Tensor) -> np.ndarray:
    """Mean share of the logit that is left on the way to half of the patches, for each picture."""
    n, _, height, width = x.shape
    rows, columns = height // patch, width // patch
    sums = torch.tensor(relevance.sum(1))[:, : rows * patch, : columns * patch]
    sums = sums.unflatten(1, (rows, patch)).unflatten(3, (columns, patch)).sum((2, 4)).flatten(1)
    order, found = sums.argsort(1, descending=True), []
    for m in np.unique(np.linspace(0, rows * columns // 2, 17).round().astype(int)):
        gone = torch.zeros(n, rows * columns).scatter(1, order[:, :m], 1.0).view(n, 1, rows, columns)
        mask = torch.zeros(n, 1, height, width)
        mask[:, :, : rows * patch, : columns * patch] = gone.repeat_interleave(patch, 2).repeat_interleave(patch, 3)
        with torch.no_grad():
            found.append(net(x * (1 - mask) + fill * mask).gather(1, k[:, None])[:, 0])
    curve = torch.stack(found, 1)
    return (curve / curve[:, :1]).mean(1).numpy()


def study(name: str, net: nn.Module, x: Tensor, patch: int, fill: Tensor, low: object, high: object) -> None:
    with torch.no_grad():
        k = net(x).argmax(1)
    presets = backlight.presets
    methods = {
        "gradient × input": {"method": "gradient_x_input"},
        "auto (γ = 0.25, ε)": {"rules": "auto"},
        "epsilon": {"rules": "epsilon"},
        "epsilon-plus-flat": {"rules": "epsilon-plus-flat"},
        "epsilon-gamma-box": {"rules": presets["epsilon-gamma-box"](low, high)},
        "epsilon-alpha2-beta1": {"rules": "epsilon-alpha2-beta1"},
        "gamma-decreasing": {"rules": presets["gamma-decreasing"](low, high)},
    }
    areas = {
        m: left(net, x, backlight.explain(net, x, k.numpy(), **how).values, k, patch, fill)
        for m, how in methods.items()
    }
    areas["random order"] = left(net, x, np.random.default_rng(0).normal(size=x.shape), k, patch, fill)
    print(
        f"\n{name} ({len(x)} pictures)\n\n| method | logit left | gain over gradient × input | 95 % interval |\n|---|---|---|---|"
    )
    rng = np.random.default_rng(0)
    for m, area in areas.items():
        gain = areas["gradient × input"] - area
        draws = [gain[rng.integers(0, len(gain), len(gain))].mean() for _ in range(2000)]
        low_, high_ = np.quantile(draws, [0.025, 0.975])
        print(f"| {m} | {area.mean():.3f} | {gain.mean():+.3f} | {low_:+.3f} to {high_:+.3f} |", flush=True)


def normalised(pixels: np.ndarray) -> Tensor:
    return torch.tensor(((pixels / 255 - MEAN) / STD).transpose(0, 3, 1, 2), dtype=torch.float32)


def main(folder: Path) -> None:
    low, high = (0 - MEAN) / STD, (1 - MEAN) / STD
    z = np.load(folder / "cifar10_test_jpeg" / "cifar10_test2000.npz")
    x = normalised(z["x"][:300])
    resnet = loaded(ResNet20(), folder / "cifar10_resnet20" / "resnet20.safetensors")
    study(
        "ResNet-20 on CIFAR-10, patches of 4, the picture's mean colour",
        resnet,
        x,
        4,
        x.mean((2, 3), keepdim=True),
        low,
        high,
    )

    crops, rng = [], np.random.default_rng(1)
    for path in sorted((folder / "photos").glob("*.jpg")):
        with Image.open(path) as opened:
            picture = opened.convert("RGB")
        scale = 280 / min(picture.size)
        pixels = np.asarray(
            picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.BILINEAR)
        )
        for _ in range(6):
            i, j = rng.integers(0, pixels.shape[0] - 224), rng.integers(0, pixels.shape[1] - 224)
            crops.append(pixels[i : i + 224, j : j + 224])
    x = normalised(np.stack(crops))
    squeezenet = load_network(folder / "imagenet_squeezenet1_0" / "squeezenet1_0.safetensors", "squeezenet1_0")
    study(
        "SqueezeNet on crops of six photographs, patches of 16, mean colour",
        squeezenet,
        x,
        16,
        x.mean((2, 3), keepdim=True),
        low,
        high,
    )

    z = np.load(folder / "mnist" / "mnist.npz")

    def enlarged(pixels: np.ndarray) -> Tensor:
        return F.interpolate(torch.tensor(pixels / 255, dtype=torch.float32)[:, None], (32, 32), mode="bilinear")

    x, others = enlarged(z["x_test"][:300]), enlarged(z["x_train"][:300])
    lenet = loaded(LeNet(), folder / "mnist_lenet_relu" / "lenet5_relu.safetensors")
    study("LeNet on MNIST, patches of 4, black", lenet, x, 4, torch.zeros(1, 1, 1, 1), 0.0, 1.0)
    study("LeNet on MNIST, patches of 4, another digit's pixels", lenet, x, 4, others, 0.0, 1.0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
