"""One law for every network, rule and target: output = base + values + what the ledger holds, row by row."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import backlight
from backlight.engine.operators import registry
from backlight.engine.steps import Transposed
from backlight.errors import BacklightWarning, ConservationError
from backlight.rules import WSquare
from tests.zoo import ZOO, animal


def margin(y):
    """The first output before the best other one."""
    return y[:, 0] - y[:, 1:].amax(1)


def entropy(y):
    return -(y.softmax(1) * y.log_softmax(1)).sum(1)


TARGETS = {
    "none": None, "index": 1, "last": -1, "indices": np.array([0, 2, 1, 0]), "tensor": torch.tensor([1, 1, 0, 2]),
    "direction": "direction", "difference": lambda y: y[:, 1] - y[:, 0], "offset": lambda y: y[:, 1] + 3.0,
    "softmax": lambda y: y.softmax(1)[:, 0], "log-softmax": lambda y: y.log_softmax(1)[:, 1], "margin": margin,
    "product": lambda y: y[:, 0] * y[:, 1], "entropy": entropy, "log-sum-exp": lambda y: y.logsumexp(1),
    "list": [0, margin, entropy], "all": "all",
}  # fmt: skip


def expected(net, x, target):
    """Scores from the model itself, (n,) or (n, targets); the logit where it ends in a softmax."""
    y = (net[:-1] if isinstance(net, nn.Sequential) and isinstance(net[-1], nn.Softmax) else net)(x).detach()
    whole = net(x).detach()
    if target is None:
        return y.amax(1)
    if isinstance(target, str):
        return y if target == "all" else y @ torch.linspace(-1, 1, y.shape[1]).double()
    if isinstance(target, list):
        return torch.stack([expected(net, x, one) for one in target], 1)
    if callable(target):
        return target(whole)
    return y[torch.arange(len(y)), torch.as_tensor(target)]


# beside the automatic choice every network gets one of these in turn
RULES = ["epsilon-plus-flat", "epsilon-gamma-box", "epsilon-alpha2-beta1", "attnlrp", WSquare(), "epsilon"]


def require_closed(ex, score):
    np.testing.assert_allclose(ex.output, score, rtol=1e-9, atol=1e-12)
    axes = tuple(range(1, ex.values.ndim - (1 if ex.output.ndim == 2 else 0)))
    parts = ex.base_values + ex.values.sum(axes) + ex.ledger.absorbed.sum(0)
    # sums of thousands of numbers of this size have these roundings
    size = np.abs(ex.values).sum(axes) + np.abs(ex.ledger.entering).sum(0) + np.abs(ex.output)
    assert (np.abs(parts - ex.output) <= 1e-12 * size + 1e-13).all()


@pytest.mark.parametrize("name", ZOO)
def test_output_is_base_and_values_and_ledger(name):
    net, x = animal(name)
    direction = torch.linspace(-1, 1, net(x).shape[1]).double()
    each = [target for target in TARGETS.values() if not isinstance(target, list | str)]
    scores = torch.stack([expected(net, x, target) for target in [*each, "direction"]], 1)
    for rules in ("auto", RULES[list(ZOO).index(name) % len(RULES)]):
        with warnings.catch_warnings():
            # what is lost on the way is said; here it must be in the ledger
            warnings.simplefilter("ignore", BacklightWarning)
            require_closed(backlight.explain(net, x, [*each, direction], rules=rules), scores)
            require_closed(backlight.explain(net, x, "all", rules=rules), expected(net, x, "all"))
            require_closed(backlight.explain(net, x, margin, rules=rules), expected(net, x, margin))


@pytest.mark.parametrize("name", ["lstm", "tokens", "windows", "frames", "constant beside", "floor", "masked"])
def test_what_a_model_keeps_in_biases_and_constants_is_no_loss(name):
    net, x = animal(name)
    ex = backlight.explain(net, x, 1, rules=backlight.rules.Zero(), strict=True)
    lost = np.abs(ex.ledger.absorbed - ex.ledger.bias).max()
    assert lost <= 1e-10 * np.abs(ex.ledger.entering).max()


def test_a_plan_that_does_not_close_is_an_error_that_names_the_place(monkeypatch):
    """An operator whose way back loses a half, and does not say so."""

    class Half(Transposed):
        def bind(self, rule, facts):
            step = Transposed.bind(self, rule, facts)
            plain = type(step).pull

            class Losing(type(step)):
                __slots__ = ()

                def pull(self, record, message, book):
                    return [type(m)(m.gradient / 2, m.direct) for m in plain(self, record, message, book)]

            step.__class__ = Losing
            return step

    def maker(node, context):
        return Half(node, context.carriers(node), "move", None)

    monkeypatch.setitem(registry._MAKERS, "flip", maker)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.o = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.o(F.relu(self.a(x)).flip(1))

    torch.manual_seed(0)
    with pytest.raises(ConservationError, match=r"'flip' \(moves\) neither hands on nor books"):
        backlight.explain(Net().double().eval(), torch.randn(3, 3, dtype=torch.float64), 0)
