"""Networks by name, for files that hold weights alone.

`squeezenet1_0` is written here from its paper; every other name is looked up in torchvision, where that is installed.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from backlight.errors import ArgumentError, MissingDependency, listed

__all__ = ["ARCHITECTURES", "architecture"]


class _Fire(nn.Module):
    """A squeeze to few channels, then two expansions side by side."""

    def __init__(self, channels: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.squeeze(x))
        return torch.cat([torch.relu(self.expand1x1(x)), torch.relu(self.expand3x3(x))], 1)


class _SqueezeNet(nn.Module):
    """Iandola et al., "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters", 2016, table 1."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        fires = [
            (96, 16, 64),
            (128, 16, 64),
            (128, 32, 128),
            (256, 32, 128),
            (256, 48, 192),
            (384, 48, 192),
            (384, 64, 256),
            (512, 64, 256),
        ]
        pool = [nn.MaxPool2d(3, 2, ceil_mode=True) for _ in range(3)]
        fire = [_Fire(*sizes) for sizes in fires]
        self.features = nn.Sequential(
            nn.Conv2d(3, 96, 7, 2), nn.ReLU(), pool[0], *fire[:3], pool[1], *fire[3:7], pool[2], fire[7]
        )
        self.classifier = nn.Sequential(
            nn.Dropout(), nn.Conv2d(512, classes, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.classifier(self.features(x))
        return found


class _DigitNet(nn.Module):
    """Two convolutions for pictures of 8 × 8 pixels: the example's network."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)
        )
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 10))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.classifier(self.features(x))
        return found


ARCHITECTURES: dict[str, Callable[[], nn.Module]] = {"digits": _DigitNet, "squeezenet1_0": _SqueezeNet}


def architecture(name: str) -> nn.Module:
    """A network by name, with weights that are not trained.

    Raises
    ------
    ArgumentError
        No network of this name.
    """
    if name in ARCHITECTURES:
        return ARCHITECTURES[name]()
    try:
        from torchvision.models import get_model, list_models
    except ImportError as error:
        raise MissingDependency(
            f"architecture {name!r} is not one of backlight's own ({listed(ARCHITECTURES)}), and torchvision, which "
            "may know it, is not installed: pip install torchvision"
        ) from error
    if name not in list_models():
        raise ArgumentError(
            f"no architecture is named {name!r}, neither here ({listed(ARCHITECTURES)}) nor in torchvision"
        )
    network: nn.Module = get_model(name, weights=None)
    return network
