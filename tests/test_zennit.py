"""Equal to zennit's composites on VGG-16 and ResNet-50, where zennit and torchvision are installed (the bench extra)."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

import backlight

models = pytest.importorskip("torchvision.models")
composites = pytest.importorskip("zennit.composites")

pytestmark = pytest.mark.filterwarnings("ignore::backlight.errors.BacklightWarning", "ignore::DeprecationWarning")

PAIRS = {
    "epsilon-plus": ("EpsilonPlus", {}),
    "epsilon-plus-flat": ("EpsilonPlusFlat", {}),
    "epsilon-gamma-box": ("EpsilonGammaBox", {"low": -2.0, "high": 2.0}),
    "epsilon-alpha2-beta1": ("EpsilonAlpha2Beta1", {}),
}


def with_statistics(net):
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
    return net.eval()


def folded(net):
    """zennit 0.5 leaves the epsilon of a merged batch normalisation in place: it gets a network without any."""
    net = copy.deepcopy(net)
    for block in net.modules():
        for conv, norm in (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3")):
            if hasattr(block, conv):
                setattr(block, conv, fuse_conv_bn_eval(getattr(block, conv), getattr(block, norm)))
                setattr(block, norm, nn.Identity())
        if getattr(block, "downsample", None) is not None:
            block.downsample = nn.Sequential(fuse_conv_bn_eval(block.downsample[0], block.downsample[1]))
    return net


@pytest.fixture(scope="module", params=["vgg16", "resnet50"])
def network(request):
    torch.manual_seed(0)
    return folded(with_statistics(getattr(models, request.param)(weights=None)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("preset", PAIRS)
def test_presets_with_an_absolute_epsilon_are_zennits_composites(network, preset, dtype):
    from zennit.torchvision import ResNetBottleneckCanonizer

    name, bounds = PAIRS[preset]
    net = copy.deepcopy(network).to(dtype)
    x = (torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0)) * 4 - 2).to(dtype)
    full = {key: torch.full((1, 3, 1, 1), value, dtype=dtype) for key, value in bounds.items()}
    with getattr(composites, name)(canonizers=[ResNetBottleneckCanonizer()], **full).context(net) as modified:
        leaf = x.clone().requires_grad_()
        out = modified(leaf)
        k = out.argmax(1, keepdim=True)
        seed = torch.zeros_like(out).scatter(1, k, out.gather(1, k).detach())
        (theirs,) = torch.autograd.grad(out, leaf, seed)

    ours = backlight.explain(net, x, rules=backlight.presets[preset](**bounds, absolute=True))

    difference = (torch.tensor(ours.values) - theirs.double()).norm() / theirs.double().norm()
    assert difference <= {torch.float32: 1e-5, torch.float64: 1e-12}[dtype]
