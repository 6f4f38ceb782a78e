"""Why a picture is odd: python examples/odd_pictures.py.

A one-class SVM learns what automobiles look like from the features of a trained ResNet-20, and every picture's
outlierness is explained to its pixels. Needs the trained network and pictures beside the project (shared/data). Writes
odd_pictures.png.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import OneClassSVM
from torch import nn

import backlight

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


class Block(nn.Module):
    """Two convolutions and a shortcut."""

    def __init__(self, inside, outside, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(outside), nn.BatchNorm2d(outside)
        self.stride, self.more = stride, (outside - inside) // 2

    def forward(self, x):
        """Shape (n, inside, h, w) to (n, outside, h / stride, w / stride)."""
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        short = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.more, self.more)) if self.stride == 2 else x
        return F.relu(y + short)


class Features(nn.Module):
    """ResNet-20 up to the 64 numbers before its last layer (He et al. 2016, section 4.2)."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        widths = [16, 16, 32, 64]
        for k in (1, 2, 3):
            blocks = [Block(widths[k - 1 if j == 0 else k], widths[k], 2 if k > 1 and j == 0 else 1) for j in range(3)]
            setattr(self, f"layer{k}", nn.Sequential(*blocks))

    def forward(self, x):
        """Pictures to features, (n, 64)."""
        return self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x)))))).mean((2, 3))


def inputs(pictures):
    """Pictures as the network takes them."""
    return torch.tensor(((pictures / 255 - MEAN) / STD).transpose(0, 3, 1, 2), dtype=torch.float32)


def main():
    """Fit, explain, draw."""
    weights, file = (
        DATA / "cifar10_resnet20" / "resnet20.safetensors",
        DATA / "cifar10_test_jpeg" / "cifar10_test2000.npz",
    )
    if not weights.exists() or not file.exists():
        raise SystemExit(f"needs {weights.name} and {file.name} in {DATA}")
    network = Features().eval()
    network.load_state_dict(load_file(weights), strict=False)
    with np.load(file) as held:
        pictures, labels, names = held["x"], held["y"], held["class_names"].tolist()
    cars = pictures[labels == names.index("automobile")]
    usual = inputs(cars[:150])
    with torch.no_grad():
        head = make_pipeline(StandardScaler(), OneClassSVM(nu=0.1)).fit(network(usual).double().numpy())
    others = [pictures[labels == k][3] for k, name in enumerate(names) if name != "automobile"]
    shown = np.concatenate([cars[150:155], np.stack(others[:5])])
    ex = backlight.explain(backlight.neuralize(head, features=network, data=usual), inputs(shown))
    figure, axes = plt.subplots(4, 5, figsize=(9, 7.4), layout="constrained")
    for k, (picture, heat) in enumerate(zip(shown, ex.values.sum(1), strict=True)):
        above, below = axes[2 * (k // 5), k % 5], axes[2 * (k // 5) + 1, k % 5]
        above.imshow(picture)
        above.set_title(f"outlierness {ex.output[k]:.1f}", fontsize=9)
        most = np.abs(heat).max()
        below.imshow(heat, cmap="RdBu_r", vmin=-most, vmax=most)
        above.axis("off")
        below.axis("off")
    figure.savefig("odd_pictures.png", dpi=110)
    print(f"wrote odd_pictures.png; largest residual {np.abs(ex.residual).max():.1e}")


if __name__ == "__main__":
    main()
