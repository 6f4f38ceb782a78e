"""Is relevance conserved on the architectures of torchvision? Bias-free, float64, random weights.

Σ R / f should be 1 wherever a rule conserves. The last column is how far Σ R differs from what the ledger says: f minus
all that it lists as absorbed; it should be rounding everywhere.

    python benchmarks/zoo.py [name …]
"""

from __future__ import annotations

import sys
import warnings

import numpy as np
import torch
from torch import nn
from torchvision import models

import backlight
from backlight.rules import Epsilon, Gamma, Zero, ZPlus

warnings.simplefilter("ignore")
NAMES = [
    "alexnet", "vgg11", "vgg11_bn", "vgg16", "resnet18", "resnet50", "wide_resnet50_2", "resnext50_32x4d", "densenet121",
    "googlenet", "inception_v3", "mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large", "shufflenet_v2_x1_0",
    "squeezenet1_0", "squeezenet1_1", "mnasnet1_0", "efficientnet_b0", "regnet_x_400mf", "regnet_y_400mf", "convnext_tiny",
    "vit_b_16", "swin_t", "swin_v2_t", "maxvit_t",
]  # fmt: skip
RULES = {"LRP-0": Zero(), "ε = 1e-12": Epsilon(1e-12), "γ = 0.25": Gamma(0.25), "z⁺": ZPlus()}


def bias_free(name: str) -> nn.Module:
    torch.manual_seed(0)
    options = {"transform_input": False, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
    net = getattr(models, name)(weights=None, **options).double().eval()
    g = torch.Generator().manual_seed(1)
    for path, module in net.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            n = module.num_features
            module.running_mean.zero_()
            module.running_var = (torch.rand(n, generator=g) + 0.5).double()
            module.weight.data = (torch.rand(n, generator=g) + 0.5).double()
        if isinstance(getattr(module, "bias", None), nn.Parameter):
            module.bias.data.zero_()
        if isinstance(module, nn.Linear) and path.split(".")[0] in ("head", "heads"):
            nn.init.normal_(module.weight, std=0.1)
    return net


def main() -> None:
    print("| network | " + " | ".join(RULES) + " | ledger |\n|---|" + "---|" * (len(RULES) + 1))
    for name in sys.argv[1:] or NAMES:
        net = bias_free(name)
        side = {"inception_v3": 299, "vit_b_16": 224, "maxvit_t": 224}.get(name, 96)
        x = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0)).double()
        cells, worst = [], 0.0
        for rule in RULES.values():
            ex = backlight.explain(net, x, 3, rules=rule)
            cells.append(f"{np.abs(ex.values.sum((1, 2, 3)) / ex.output - 1).max():.0e}")
            scale = np.abs(ex.ledger.entering).max()
            worst = max(worst, np.abs(ex.ledger.absorbed.sum(0).sum() - ex.residual.sum()) / scale)
        print(f"| {name} | " + " | ".join(cells) + f" | {worst:.0e} |", flush=True)


if __name__ == "__main__":
    main()
