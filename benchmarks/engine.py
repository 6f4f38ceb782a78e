"""The relevance engine beside zennit, captum and autoLRP: processor time and operations as ratios, one process.

Contenders run in turn, round by round, on the same network and inputs; the ratio is that of the medians. Operations are
counted, and are the same on every machine. ``difference`` is the relative distance (2-norm) of the relevance from
backlight's with the same absolute stabiliser; zennit gets its canonizer for residual sums, and networks whose batch
normalisation was folded beforehand, since it leaves that layer's epsilon in place.

    python benchmarks/engine.py [rounds]
"""

from __future__ import annotations

import copy
import sys
import time
import warnings
from collections.abc import Callable

import autolrp
import torch
import zennit.composites as z
from captum.attr import LRP
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from torchvision import models
from zennit.torchvision import ResNetBottleneckCanonizer

import backlight
from backlight.engine.watch import Checksums
from backlight.rules import AlphaBeta, Gamma, Zero, ZPlus

warnings.simplefilter("ignore")
ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 3


def trained_looking(net: nn.Module) -> nn.Module:
    """Random weights, statistics and biases that are not trivial."""
    g = torch.Generator().manual_seed(1)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            n = module.num_features
            module.running_mean, module.running_var = (
                torch.randn(n, generator=g) * 0.1,
                torch.rand(n, generator=g) + 0.5,
            )
            module.weight.data, module.bias.data = torch.rand(n, generator=g) + 0.5, torch.randn(n, generator=g) * 0.1
        elif isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            module.bias.data = torch.randn(module.bias.shape, generator=g) * 0.02
    return net.eval().requires_grad_(False)


def folded(net: nn.Module) -> nn.Module:
    net = copy.deepcopy(net)
    for block in net.modules():
        for conv, norm in (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3")):
            if hasattr(block, conv):
                setattr(block, conv, fuse_conv_bn_eval(getattr(block, conv), getattr(block, norm)))
                setattr(block, norm, nn.Identity())
        if getattr(block, "downsample", None) is not None:
            block.downsample = nn.Sequential(fuse_conv_bn_eval(block.downsample[0], block.downsample[1]))
    return net


def by_zennit(net: nn.Module, x: Tensor, make: Callable[..., object], **bounds: float) -> Callable[[], Tensor]:
    full = {name: torch.full((1, 3, 1, 1), value) for name, value in bounds.items()}

    def run() -> Tensor:
        with make(canonizers=[ResNetBottleneckCanonizer()], **full).context(net) as modified:
            leaf = x.clone().requires_grad_()
            out = modified(leaf)
            k = out.argmax(1, keepdim=True)
            seed = torch.zeros_like(out).scatter(1, k, out.gather(1, k).detach())
            return torch.autograd.grad(out, leaf, seed)[0]

    return run


def by_autolrp(net: nn.Module, x: Tensor, rule: object) -> Callable[[], Tensor]:
    config = autolrp.LRPConfig(rule={**autolrp.BASE, **({"ConvolutionBackward": rule} if rule else {})})

    def run() -> Tensor:
        wrapped = autolrp.tensor(x.clone())
        out = net(wrapped)
        out[0, int(out[0].argmax())].lrp(config=config)
        return wrapped.relevance

    return run


def measured(contenders: dict[str, Callable[[], Tensor]]) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for name, run in contenders.items():
        try:
            run()
        except Exception as error:  # a contender that cannot explain this network
            times[name] = []
            print(f"  {name}: {type(error).__name__}: {str(error)[:90]}")
    for _ in range(ROUNDS):
        for name, run in contenders.items():
            if times[name] is None:
                continue
            start = time.process_time()
            try:
                run()
            except Exception:  # noqa: S112 - said above
                continue
            times[name].append(time.process_time() - start)
    return {name: sorted(found)[len(found) // 2] for name, found in times.items() if found}


class Counter(TorchDispatchMode):
    """Floating-point operations of products; torch's own counter follows modules, which upsets hooks."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func._overloadpacket in flop_registry:
            self.total += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=out)
        return out


def operations(run: Callable[[], object]) -> int:
    with Counter() as counter:
        run()
    return counter.total


def table(name: str, net: nn.Module, x: Tensor, plain: nn.Module) -> None:
    def forward() -> Tensor:
        with torch.no_grad():
            return net(x)

    def gradient_x_input() -> Tensor:
        leaf = x.clone().requires_grad_()
        out = net(leaf)
        return leaf.detach() * torch.autograd.grad(out.amax(1).sum(), leaf)[0]

    def ours(rules: object) -> Callable[[], Tensor]:
        return lambda: torch.as_tensor(backlight.explain(net, x, rules=rules).values)

    low, high = -2.0, 2.0
    pairs = {
        "epsilon-plus": ({}, z.EpsilonPlus),
        "epsilon-plus-flat": ({}, z.EpsilonPlusFlat),
        "epsilon-gamma-box": ({"low": low, "high": high}, z.EpsilonGammaBox),
        "epsilon-alpha2-beta1": ({}, z.EpsilonAlpha2Beta1),
    }
    contenders: dict[str, Callable[[], Tensor]] = {"forward": forward, "gradient × input": gradient_x_input}
    contenders["backlight epsilon"] = ours("epsilon")
    differences = {}
    for preset, (bounds, make) in pairs.items():
        contenders[f"backlight {preset}"] = ours(backlight.presets[preset](**bounds))
        contenders[f"zennit {preset}"] = by_zennit(plain, x, make, **bounds)
        exact = torch.as_tensor(
            backlight.explain(plain, x, rules=backlight.presets[preset](**bounds, absolute=True)).values
        )
        theirs = contenders[f"zennit {preset}"]().double()
        differences[f"zennit {preset}"] = float((exact - theirs).norm() / theirs.norm())
    if name.startswith("vgg"):
        out_of_place = copy.deepcopy(net)
        for module in out_of_place.modules():
            if isinstance(module, nn.ReLU):
                module.inplace = False
        for module in out_of_place.modules():
            if isinstance(module, nn.AdaptiveAvgPool2d | nn.Dropout):
                from captum.attr._utils.lrp_rules import EpsilonRule, IdentityRule

                module.rule = EpsilonRule() if isinstance(module, nn.AdaptiveAvgPool2d) else IdentityRule()
        contenders["captum epsilon"] = lambda: LRP(out_of_place).attribute(x.clone(), target=net(x).argmax(1))
    for rule in (None, "zplus", ("gamma", {"gamma": 0.25})):
        contenders[f"autoLRP {'epsilon' if rule is None else rule if isinstance(rule, str) else rule[0]}"] = by_autolrp(
            net, x, rule
        )
    times = measured(contenders)
    count = operations(forward)
    print(f"\n{name}, {len(x)} × 224²\n", flush=True)
    print("| contender | CPU ÷ forward | CPU ÷ gradient × input | operations ÷ forward | difference |")
    print("|---|---|---|---|---|")
    for contender, seconds in times.items():
        difference = f"{differences[contender]:.1e}" if contender in differences else ""
        print(
            f"| {contender} | {seconds / times['forward']:.2f} | {seconds / times['gradient × input']:.2f} | "
            f"{operations(contenders[contender]) / count:.2f} | {difference} |"
        )


def watching(name: str, net: nn.Module, x: Tensor) -> None:
    """What it costs to see that no byte of a model was written to, which every explanation pays."""
    size = sum(t.numel() * t.element_size() for t in (*net.parameters(), *net.buffers()))
    times = measured({"checksum": lambda: torch.tensor(Checksums(net).changed(net)), "forward": lambda: net(x)})
    # one to make it, one to compare
    seconds = times["checksum"] / 2
    print(
        f"\n{name}: XXH3 of all {size / 1e6:.0f} MB in {1e3 * seconds:.1f} ms of one CPU ({size / seconds / 1e9:.1f} GB/s), "
        f"{seconds / times['forward']:.3f} of a forward pass of {len(x)} × 224²"
    )


def tiny() -> None:
    """50 layers of four units, one row, one thread: what Python costs."""
    torch.set_num_threads(1)
    net = (
        nn.Sequential(*[layer for _ in range(50) for layer in (nn.Linear(4, 4), nn.ReLU())])
        .eval()
        .requires_grad_(False)
    )
    x = torch.randn(1, 4)

    def gradient_x_input() -> Tensor:
        leaf = x.clone().requires_grad_()
        return leaf.detach() * torch.autograd.grad(net(leaf).amax(1).sum(), leaf)[0]

    def by_rule(rule: object) -> Callable[[], Tensor]:
        composite = z.LayerMapComposite([(nn.Linear, rule), (nn.ReLU, z.Pass())])

        def run() -> Tensor:
            with composite.context(net) as modified:
                leaf = x.clone().requires_grad_()
                return torch.autograd.grad(modified(leaf).amax(1).sum(), leaf)[0]

        return run

    from zennit import rules as zr

    z.Pass = zr.Pass
    contenders = {
        "gradient × input": gradient_x_input,
        "backlight epsilon": lambda: backlight.explain(net, x, rules="epsilon"),
        "zennit epsilon": by_rule(zr.Epsilon()),
        "backlight gamma": lambda: backlight.explain(net, x, rules=Gamma(0.25)),
        "zennit gamma": by_rule(zr.Gamma(0.25)),
        "backlight zplus": lambda: backlight.explain(net, x, rules=ZPlus()),
        "zennit zplus": by_rule(zr.ZPlus()),
        "backlight alphabeta": lambda: backlight.explain(net, x, rules=AlphaBeta(2, 1)),
        "zennit alphabeta": by_rule(zr.AlphaBeta(2, 1)),
        "backlight zero": lambda: backlight.explain(net, x, rules=Zero()),
    }
    global ROUNDS
    ROUNDS = 60
    times = measured(contenders)
    base = times["gradient × input"]
    print("\n50 × Linear(4, 4) + ReLU, one row\n\n| contender | CPU a layer, µs | ÷ gradient × input |\n|---|---|---|")
    for contender, seconds in times.items():
        print(f"| {contender} | {1e6 * seconds / 50:.0f} | {seconds / base:.1f} |")


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(2)
    x = torch.rand(1, 3, 224, 224) * 4 - 2
    vgg = trained_looking(models.vgg16(weights=None))
    table("vgg16", vgg, x, vgg)
    watching("vgg16", vgg, x)
    resnet = trained_looking(models.resnet50(weights=None))
    table("resnet50", resnet, x, folded(resnet))
    watching("resnet50", resnet, x)
    tiny()


if __name__ == "__main__":
    main()
