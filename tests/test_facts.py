"""What the planner says of values before anything runs: it is never wrong, and it is said where layers gain by it."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import backlight
from backlight.engine import plan
from backlight.engine.capture import capture
from backlight.engine.dependencies import Dependencies
from backlight.engine.facts import nonnegative_nodes
from backlight.engine.simplify import simplify
from backlight.engine.steps import fill
from backlight.rules import AlphaBeta, Gamma, ZPlus

pytestmark = pytest.mark.fast

SIGNS = torch.tensor([-1, 1, -2, 3, 1, 2])
PLACES = torch.tensor([0, 2, 4, 1, 3, 5])
TABLE = torch.tensor([-1.0, 2.0, 0.5, -3.0, 1.0, 2.0], dtype=torch.float64)


# what is computed of the rectified u and of x of either sign, and whether it is known to be ≥ 0
VALUES = {
    "u": (lambda x, u: u * 1.0, True),
    "difference": (lambda x, u: u - u.flip(1), False),
    "negative factor": (lambda x, u: u * -2.0, False),
    "negative whole factor": (lambda x, u: u * -2, False),
    "factors of both signs": (lambda x, u: u * TABLE, False),
    "whole factors of both signs": (lambda x, u: u * SIGNS, False),
    "divided by whole numbers": (lambda x, u: u / SIGNS, False),
    "less whole numbers": (lambda x, u: u + SIGNS, False),
    "positive factor": (lambda x, u: u * 2.0, True),
    "factors": (lambda x, u: u * TABLE.abs(), True),
    "sum": (lambda x, u: u + u.flip(1), True),
    "sum with x": (lambda x, u: u + x, False),
    "negative summand": (lambda x, u: u + -0.3, False),
    "weighted sum": (lambda x, u: torch.add(u, u.flip(1), alpha=-1), False),
    "product with x": (lambda x, u: u * x, False),
    "sine": (lambda x, u: torch.sin(4 * u), False),
    "logarithm": (lambda x, u: torch.log(u + 0.1), False),
    "tanh": (lambda x, u: torch.tanh(x), False),
    "gelu": (lambda x, u: F.gelu(x), False),
    "elu": (lambda x, u: F.elu(x), False),
    "leaky": (lambda x, u: F.leaky_relu(x, 0.1), False),
    "clamped from below": (lambda x, u: x.clamp(min=0.2), True),
    "clamped at minus one": (lambda x, u: x.clamp(-1, 1), False),
    "clamped from above": (lambda x, u: x.clamp(max=1), False),
    "hardtanh": (lambda x, u: F.hardtanh(x), False),
    "rectified at six": (lambda x, u: F.relu6(x), True),
    "size": (lambda x, u: x.abs(), True),
    "square": (lambda x, u: x.square(), True),
    "exponential": (lambda x, u: x.exp(), True),
    "sigmoid": (lambda x, u: x.sigmoid(), True),
    "softmax": (lambda x, u: x.softmax(1), True),
    "padded": (lambda x, u: F.pad(u, (1, 1))[:, :6], True),
    "padded by a negative number": (lambda x, u: F.pad(u, (1, 1), value=-1.0)[:, :6], False),
    "masked": (lambda x, u: u.masked_fill(x > 1, 0.0), True),
    "masked by a negative number": (lambda x, u: u.masked_fill(x > 0, -1.0), False),
    "joined": (lambda x, u: torch.cat([u[:, :3], u[:, 3:]], 1), True),
    "joined with x": (lambda x, u: torch.cat([u[:, :3], x[:, 3:]], 1), False),
    "one of two": (lambda x, u: torch.where(x > 0.5, u, u.flip(1)), True),
    "one of two, x": (lambda x, u: torch.where(x > 0.5, u, x), False),
    "larger": (lambda x, u: torch.maximum(u, u.flip(1)), True),
    "smaller with x": (lambda x, u: torch.minimum(u, x), False),
    "running sum": (lambda x, u: u.cumsum(1), True),
    "mean and value": (lambda x, u: u - u.mean(1, keepdim=True), False),
    "chosen": (lambda x, u: u[:, [0, 2, 4, 1, 3, 5]], True),
    "of whole numbers": (lambda x, u: (x * 3).round().long().double(), False),
    "one of two, whole numbers": (lambda x, u: torch.where(x > 0.5, u, SIGNS), False),
    "one of two, a number": (lambda x, u: torch.where(x > 0.5, u, torch.tensor(-1)), False),
    "joined with whole numbers": (lambda x, u: torch.cat([u, SIGNS.expand(len(x), 6)], 1)[:, 3:9], False),
    "whole factors": (lambda x, u: u * SIGNS.abs(), True),
    "filled at places": (lambda x, u: u.index_fill(1, PLACES[:2], -1.0), False),
    "filled": (lambda x, u: torch.fill(u, -1.0) + 0.0 * u, False),
    "written at places": (lambda x, u: u.scatter(1, PLACES[:2].expand(len(x), 2), -1.0), False),
    "gathered": (lambda x, u: u.gather(1, PLACES.expand(len(x), 6)), True),
    "chosen by places": (lambda x, u: u.index_select(1, PLACES), True),
    "table of both signs": (lambda x, u: u + TABLE.index_select(0, PLACES), False),
    "largest": (lambda x, u: u.topk(6, dim=1).values, True),
    "pooled": (lambda x, u: F.avg_pool1d(u[:, None], 3, 1, 1)[:, 0], True),
}  # fmt: skip


class Made(nn.Module):
    def __init__(self, make):
        super().__init__()
        self.make, self.fc = make, nn.Linear(6, 2)

    def forward(self, x):
        return self.fc(self.make(x, torch.relu(x)))


def values_of(graph, x):
    """Every value of the graph for these inputs, and what is said of it."""
    known = Dependencies(graph, {})
    held = list(known.template)
    for index in graph.inputs.values():
        held[index] = x
    for node in graph.nodes:
        if held[node.index] is None and node.target is not None:
            held[node.index] = node.target(*fill(node.args, held), **fill(node.kwargs, held))
    return held, nonnegative_nodes(graph, known.constants)


def test_what_is_said_never_to_be_negative_never_is():
    class Together(nn.Module):
        def forward(self, x):
            return torch.stack([make(x, torch.relu(x)) for make, _ in VALUES.values()])

    torch.manual_seed(0)
    x = torch.randn(50, 6, dtype=torch.float64)
    graph = simplify(capture(Together(), ((x,), {})))
    held, said = values_of(graph, x)

    for node, value, claim in zip(graph.nodes, held, said, strict=True):
        assert not (claim and isinstance(value, torch.Tensor)) or (value >= 0).all(), node.name
    stack = graph.nodes[graph.output.index]
    assert [(name, said[k]) for name, k in zip(VALUES, stack.inputs, strict=True)] == [
        (name, known) for name, (_, known) in VALUES.items()
    ]


@pytest.mark.filterwarnings("ignore::backlight.errors.BacklightWarning")  # αβ creates what it says
@pytest.mark.parametrize("rule", [Gamma(0.25), ZPlus(), AlphaBeta(2, 1)], ids=str)
@pytest.mark.parametrize("name", ["u", "difference", "whole factors of both signs", "sum with x", "masked", "tanh"])
def test_what_is_known_of_signs_makes_a_rule_quicker_and_changes_nothing(name, rule, monkeypatch):
    torch.manual_seed(1)
    net = Made(VALUES[name][0]).double()
    x = torch.randn(4, 6, dtype=torch.float64)
    informed = torch.tensor(backlight.explain(net, x, target=0, rules=rule).values)
    monkeypatch.setattr(plan, "nonnegative_nodes", lambda graph, constants: [False] * len(graph.nodes))
    blind = torch.tensor(backlight.explain(copy.deepcopy(net), x, target=0, rules=rule).values)
    torch.testing.assert_close(informed, blind, rtol=1e-11, atol=1e-12)
