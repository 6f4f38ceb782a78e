"""Is relevance faithful, and against which reference? Four trained networks, judged by `backlight.evaluate`.

The networks come from a folder given on the command line that holds ``imagenet_squeezenet1_0``, ``photos``,
``cifar10_resnet20``, ``cifar10_test_jpeg``, ``mnist_lenet_relu`` and ``mnist``; a perceptron is trained here. Matched and
mismatched references stand side by side: what stands in for what is taken away decides much, and is named.

    python benchmarks/faithfulness.py FOLDER [ROWS]
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
from sklearn.datasets import load_breast_cancer
from sklearn.preprocessing import StandardScaler
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


def study(
    name: str, model: object, x: object, how: dict[str, object], against: dict[str, object], **options: object
) -> None:
    """One table: methods down, references across; symmetric relevance gain with 95 % intervals, * where not beaten."""
    target = options.get("target")
    made = {m: "random" if way == "random" else backlight.explain(model, x, target, **way) for m, way in how.items()}
    found = {
        said: backlight.evaluate(model, x, made, reference=reference, metrics=["srg"], **options)
        for said, reference in against.items()
    }
    first = next(iter(found.values()))
    print(f"\n### {name} ({first.rows} rows, by {first.units})\n")
    print("| method | " + " | ".join(found) + " |\n|---" + "|---" * len(found) + "|")
    for method in made:
        cells = []
        for one in found.values():
            mark = "\\*" if method in one.best("srg") else ""
            cells.append(f"{one.interval('srg', method)}{mark}")
        print(f"| {method} | " + " | ".join(cells) + " |")
    gains = [str(one.difference("srg", "lrp: auto", "gradient × input")) for one in found.values()]
    print("| *lrp: auto − gradient × input, paired* | " + " | ".join(gains) + " |", flush=True)


def rules(low: object, high: object) -> dict[str, object]:
    presets = backlight.presets
    return {
        "lrp: auto": {"rules": "auto"},
        "lrp: epsilon": {"rules": "epsilon"},
        "lrp: epsilon-plus-flat": {"rules": "epsilon-plus-flat"},
        "lrp: epsilon-gamma-box": {"rules": presets["epsilon-gamma-box"](low, high)},
        "gradient × input": {"method": "gradient_x_input"},
        "integrated gradients": {"method": backlight.Method("integrated_gradients", steps=16)},
        "random": "random",
    }  # fmt: skip


def own_colour(x: Tensor, keep: Tensor) -> Tensor:
    return torch.where(keep, x, x.mean((2, 3), keepdim=True))


COLOUR = backlight.references.Custom(own_colour, "the picture's mean colour")


def normalised(pixels: np.ndarray) -> Tensor:
    return torch.tensor(((pixels / 255 - MEAN) / STD).transpose(0, 3, 1, 2), dtype=torch.float32)


def main(folder: Path, count: int) -> None:
    low, high = (0 - MEAN) / STD, (1 - MEAN) / STD
    z = np.load(folder / "cifar10_test_jpeg" / "cifar10_test2000.npz")
    x, others = normalised(z["x"][:count]), normalised(z["x"][1000 : 1000 + count])
    resnet = loaded(ResNet20(), folder / "cifar10_resnet20" / "resnet20.safetensors")
    pictures = {
        "the picture's mean colour": COLOUR,
        "zero": "zero",
        "other pictures": backlight.Reference.marginal(others, 1),
    }
    study("ResNet-20 on CIFAR-10", resnet, x, rules(low, high), pictures, units=4)

    crops, rng = [], np.random.default_rng(1)
    for path in sorted((folder / "photos").glob("*.jpg")):
        with Image.open(path) as opened:
            picture = opened.convert("RGB")
        scale = 280 / min(picture.size)
        pixels = np.asarray(
            picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.BILINEAR)
        )
        for _ in range(max(1, count // 50)):
            i, j = rng.integers(0, pixels.shape[0] - 224), rng.integers(0, pixels.shape[1] - 224)
            crops.append(pixels[i : i + 224, j : j + 224])
    x = normalised(np.stack(crops))
    squeezenet = load_network(folder / "imagenet_squeezenet1_0" / "squeezenet1_0.safetensors", "squeezenet1_0")
    against = {"the picture's mean colour": COLOUR, "blurred": "blurred"}
    study("SqueezeNet on crops of six photographs", squeezenet, x, rules(low, high), against, units=28)

    z = np.load(folder / "mnist" / "mnist.npz")

    def enlarged(pixels: np.ndarray) -> Tensor:
        return F.interpolate(torch.tensor(pixels / 255, dtype=torch.float32)[:, None], (32, 32), mode="bilinear")

    x, others = enlarged(z["x_test"][:count]), enlarged(z["x_train"][:count])
    lenet = loaded(LeNet(), folder / "mnist_lenet_relu" / "lenet5_relu.safetensors")
    digits = {"black (zero)": "zero", "other digits": backlight.Reference.marginal(others, 2)}
    study("LeNet on MNIST", lenet, x, rules(0.0, 1.0), digits, units=4)

    cancer = load_breast_cancer()
    scaled = StandardScaler().fit_transform(cancer.data)
    torch.manual_seed(0)
    mlp = nn.Sequential(nn.Linear(30, 16), nn.ReLU(), nn.Linear(16, 2)).double()
    optimizer = torch.optim.Adam(mlp.parameters(), 1e-2)
    X, y = torch.as_tensor(scaled), torch.as_tensor(cancer.target)
    for _ in range(200):
        optimizer.zero_grad()
        F.cross_entropy(mlp(X[:400]), y[:400]).backward()
        optimizer.step()
    known = scaled[:400]
    tables = {
        "zero (the mean)": "zero",
        "other rows": backlight.Reference.marginal(known),
        "Gaussian": backlight.Reference.gaussian(known),
    }
    study("a perceptron on breast cancer", mlp.eval(), scaled[400:], rules(scaled.min(0), scaled.max(0)), tables)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 100)
