"""Differences through operations of several inputs: products, softmax, norms, attention; exact on far rows and equal ones."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import backlight
from backlight.classical.paired import PairedModule


class Of(nn.Module):
    """A function as a module."""

    def __init__(self, function, *layers):
        super().__init__()
        self.function, self.layers = function, nn.ModuleList(layers)

    def forward(self, x):
        return self.function(x, *self.layers)


def mha(**options):
    return nn.MultiheadAttention(8, 2, batch_first=True, **options)


def masked(x, a):
    mask = torch.triu(torch.ones(3, 3, dtype=torch.bool), 1)
    padding = torch.tensor([[False, False, True]]).expand(len(x), -1)
    return a(x, x, x, attn_mask=mask, key_padding_mask=padding, need_weights=False)[0].flatten(1)


def sequence_first(x, a):
    y = x.transpose(0, 1)
    return a(y, y, y)[0].transpose(0, 1).flatten(1)


def grouped(x):
    q, k, v = x.reshape(len(x), 2, 3, 4), x.reshape(len(x), 2, 3, 4)[:, :1], x.reshape(len(x), 2, 3, 4)[:, 1:]
    return F.scaled_dot_product_attention(q, k, v, enable_gqa=True, scale=0.7).flatten(1)


MODULES = {  # rows of shape (3, 8)
    "gate": Of(lambda x: (x * torch.sigmoid(x.mean(2, keepdim=True))).flatten(1)),
    "square": Of(lambda x: (x * x).flatten(1)),
    "product of sums": Of(lambda x: x.sum(1) * x[:, 0]),
    "quotient": Of(lambda x: (x / (1 + x.abs().sum(1, keepdim=True))).flatten(1)),
    "one over": Of(lambda x: (1 / (1 + x**2)).flatten(1)),
    "matrices": Of(lambda x: (x @ x.transpose(1, 2)).flatten(1)),
    "bmm": Of(lambda x: torch.bmm(x, x.transpose(1, 2)).flatten(1)),
    "einsum": Of(lambda x: torch.einsum("nab,ncb->nac", x, x.tanh()).flatten(1)),
    "softmax": Of(lambda x: x.softmax(2).flatten(1)),
    "softmax, sharp": Of(lambda x: (40 * x).softmax(2).flatten(1)),
    "log of softmax": Of(lambda x: F.log_softmax(3 * x, dim=-1).flatten(1)),
    "layer norm": nn.Sequential(nn.LayerNorm(8), nn.Flatten()),
    "layer norm of two axes": nn.Sequential(nn.LayerNorm((3, 8), elementwise_affine=False), nn.Flatten()),
    "RMS norm": nn.Sequential(nn.RMSNorm(8), nn.Flatten()),
    "group norm": nn.Sequential(nn.Unflatten(2, (4, 2)), Of(lambda x: x.transpose(1, 2)), nn.GroupNorm(2, 4), nn.Flatten()),
    "unit length": Of(lambda x: F.normalize(x.flatten(1))),
    "attention": Of(lambda x: F.scaled_dot_product_attention(x, x.tanh(), x).flatten(1)),
    "causal attention": Of(lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True).flatten(1)),
    "attention with a mask": Of(lambda x: F.scaled_dot_product_attention(x, x, x, attn_mask=torch.eye(3, dtype=torch.bool)).flatten(1)),
    "grouped attention": Of(grouped),
    "heads": Of(lambda x, a: a(x, x, x)[0].flatten(1), mha()),
    "heads, separate": Of(lambda x, a: a(x, x[..., :5], x[..., 5:])[0].flatten(1), mha(kdim=5, vdim=3, bias=False)),
    "heads with masks": Of(masked, mha()),
    "heads, sequence first": Of(sequence_first, nn.MultiheadAttention(8, 4)),
    "transformer": nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, activation="gelu", norm_first=True),
                                 nn.LayerNorm(8), nn.Flatten()),
}  # fmt: skip


@pytest.mark.parametrize("name", MODULES)
def test_differences_are_carried_exactly(name):
    torch.manual_seed(0)
    module = MODULES[name].double().eval()
    for parameter in module.parameters():
        parameter.requires_grad_(False)
        if parameter.ndim == 1:  # norms start as the identity
            parameter.add_(0.3 * torch.randn_like(parameter))
    rng = np.random.default_rng(0)
    x, start = torch.tensor(rng.normal(size=(6, 3, 8))), torch.tensor(rng.normal(size=(6, 3, 8)))
    x[4] = start[4]  # nothing to carry
    x[5] = start[5] + 1e-9 * x[5]  # nearly nothing
    a, b = module(x), module(start)
    slope = torch.tensor(rng.normal(size=tuple(a.shape)))
    found = PairedModule(module).back(x, start, slope).flatten(1).numpy()
    wanted = (slope * (a - b)).sum(1).numpy()
    assert np.abs(found.sum(1) - wanted).max() <= 1e-11 * (1 + np.abs(found).sum(1).max())
    assert np.abs(found[4]).max() == 0
    # of a row that is nearly the reference, the gradient's own share
    leaf = start[5:].clone().requires_grad_()
    (gradient,) = torch.autograd.grad((module(leaf)[0] * slope[5]).sum(), leaf)
    near = ((x - start)[5] * gradient[0]).flatten().numpy()
    assert np.allclose(found[5], near, rtol=1e-4, atol=1e-6 * np.abs(near).max() + 1e-18)


def test_the_slope_of_a_softmax_has_the_logarithmic_mean_for_the_probability():
    rng = np.random.default_rng(1)
    x, start, g = rng.normal(size=5) * 4, rng.normal(size=5), rng.normal(size=5)
    p, q = (np.exp(v) / np.exp(v).sum() for v in (x, start))
    L = (p - q) / (np.log(p) - np.log(q))
    delta = x - start
    assert np.allclose(L * (delta - L @ delta / L.sum()), p - q, rtol=0, atol=1e-14)
    want = delta * (L * g - L * (L @ g) / L.sum())
    one = torch.tensor
    found = PairedModule(Of(lambda z: z.softmax(1))).back(one(x)[None], one(start)[None], one(g)[None])
    assert np.allclose(found[0], want, rtol=0, atol=1e-13)


def test_a_product_is_shared_at_the_mean_of_the_other_factor():
    x, start = torch.tensor([[3.0, -2.0]]).double(), torch.tensor([[1.0, 5.0]]).double()
    found = PairedModule(Of(lambda z: z[:, :1] * z[:, 1:])).back(x, start, torch.ones(1, 1).double())
    assert found[0].tolist() == [2 * 1.5, -7 * 2.0]


def test_a_head_on_a_transformers_features_is_explained():
    from sklearn.svm import OneClassSVM

    torch.manual_seed(0)
    module = nn.Sequential(MODULES["transformer"], nn.Linear(24, 6)).double().eval()
    X = torch.tensor(np.random.default_rng(0).normal(size=(60, 3, 8)))
    with torch.no_grad():
        head = OneClassSVM(nu=0.2).fit(module(X).numpy())
    ex = backlight.explain(backlight.neuralize(head, features=module, data=X), 2 * X[:5])
    assert (np.abs(ex.residual) <= 1e-9 * (np.abs(ex.values).sum((1, 2)) + np.abs(ex.base_values))).all()
    assert np.abs(ex.values).sum((1, 2)).max() > 0
