"""Laws over the registry of operators: one that is added is found by itself."""

import warnings

import pytest
import torch
from torch import nn

import backlight
from backlight.engine.operators.registry import known_operators


def unary(name):
    """A function of one value, cell by cell, of this name in torch; None where it is no such thing."""
    function = getattr(torch, name, None) or getattr(nn.functional, name, None)
    x = torch.rand(4, 3, generator=torch.Generator().manual_seed(0)).double() / 2 + 0.25
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what torch calls deprecated
            whole, column, rows = function(x), function(x[:, :1]), function(x[:2])
    except (TypeError, ValueError, RuntimeError, AttributeError):  # it takes more than one value, or is none of torch's
        return None
    same = isinstance(whole, torch.Tensor) and whole.shape == x.shape and torch.equal(whole[:, :1], column)
    same = same and torch.equal(whole[:2], rows)
    return function if same and whole.is_floating_point() else None


class Terms(nn.Module):
    """A sum of functions, each of a column of its own."""

    def __init__(self, functions):
        super().__init__()
        self.functions = functions

    def forward(self, x):
        return sum(function(x[:, k : k + 1]) for k, function in enumerate(self.functions))


def check_unary(names):
    """Of a sum of functions of one column each, a column's contribution is its term."""
    functions = {name: function for name in sorted(names) if (function := unary(name)) is not None}
    x = torch.rand(5, 1, generator=torch.Generator().manual_seed(0)).double() / 2 + 0.25
    ex = backlight.explain(Terms(list(functions.values())), x.repeat(1, len(functions)), strict=True)
    for k, (name, function) in enumerate(functions.items()):
        assert ex.values[:, k] == pytest.approx(function(x)[:, 0].numpy(), rel=1e-12, abs=1e-12), name
    return set(functions)


def test_every_function_of_one_value_hands_its_relevance_on():
    found = check_unary(known_operators())
    assert {"relu", "tanh", "sigmoid", "gelu", "exp", "log", "softplus", "hardshrink"} <= found
