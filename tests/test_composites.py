"""An entry of a composite does what it asks for, or a word says that it does not."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import backlight
from backlight.errors import ArgumentError, BacklightWarning
from backlight.rules import Epsilon, Flat, Gamma, Pass, Proportional, SoftmaxShare, Uniform, WinnerTakesAll, Zero, ZPlus
from tests.zoo import ZOO, animal


class Several(nn.Module):
    """A place of every role."""

    def __init__(self):
        super().__init__()
        self.c, self.d, self.o = nn.Conv1d(2, 4, 3), nn.Linear(6, 6), nn.Linear(3, 2)

    def forward(self, x):
        h = F.relu(self.c(x))
        h = h + torch.sigmoid(self.d(h)) * h
        return self.o(F.max_pool1d(h, 2).amax(1) * 2.0)


def made():
    torch.manual_seed(0)
    return Several().double().eval(), torch.randn(3, 2, 8, dtype=torch.float64)


def words(entries):
    """What is said of these entries, by the plan and by warnings."""
    net, x = made()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        plan = backlight.plan(net, x, backlight.Composite(entries))
    said = [str(warning.message) for warning in seen if issubclass(warning.category, BacklightWarning)]
    assert all(word in plan.notes for word in said)
    return said


SILENT = {
    "a layer by name": [("c", Gamma())],
    "a class": [(nn.Linear, Gamma())],
    "a function": [(backlight.first, Flat()), (backlight.dense, ZPlus())],
    "a pattern that takes in activations": [("*", Epsilon())],
    "a pattern for one kind of operator": [("*", WinnerTakesAll()), (nn.Linear, Zero()), ("c", Zero())],
    "a sum": [(torch.add, Proportional(1e-3))],
}

SAID = {
    "a layer's rule at an activation": ([("relu", Gamma())], "Gamma() cannot run at 'relu' (relu)"),
    "a layer's rule at a pool": ([(torch.max_pool1d, Gamma())], "cannot run at 'max_pool1d'"),
    "a pool's rule at another pool": ([("*", SoftmaxShare()), ("*", Zero())], "SoftmaxShare() cannot run at 'max_pool1d'"),
    "a product's rule at a layer": ([("c", Uniform())], "Uniform() cannot run at 'c' (conv1d)"),
    "two signals' rule at a gate": ([("mul", Uniform())], "Uniform() cannot run at 'mul' (mul)"),
    "a class that is not there": ([(nn.Conv2d, Gamma())], "the entry for Conv2d matches no place"),
    "an operator that is not there": ([(torch.sub, Proportional(0.1))], "the entry for sub matches no place"),
    "a function that selects nothing": ([(lambda place: False, Gamma())], "matches no place"),
    "behind another entry": ([("*", Zero()), ("c", Gamma())], "the entry for 'c' has no effect: earlier entries decide"),
    "a layer that no other entry takes": ([("*", WinnerTakesAll())], "WinnerTakesAll() cannot run at 'c' (conv1d) and 1 more"),
    "a pattern behind which nothing can run": ([("[o]", SoftmaxShare())], "SoftmaxShare() cannot run at 'o' (linear)"),
}  # fmt: skip


@pytest.mark.parametrize("entries", SILENT.values(), ids=SILENT)
def test_an_entry_that_runs_is_silent(entries):
    assert words(entries) == []


@pytest.mark.parametrize(("entries", "word"), SAID.values(), ids=SAID)
def test_an_entry_that_does_not_run_is_said(entries, word):
    net, x = made()
    said = words(entries)

    assert any(word in one for one in said), said
    assert all(len(one) <= 200 for one in said)
    with pytest.raises(ArgumentError) as error:
        backlight.plan(net, x, backlight.Composite(entries), strict=True)
    assert str(error.value) == said[0]


@pytest.mark.parametrize("rule", [WinnerTakesAll(), SoftmaxShare(), Uniform()])
def test_one_rule_for_all_that_runs_nowhere_is_said(rule):
    net, x = animal("layer norm")
    with pytest.warns(BacklightWarning, match=r"^the rule: .* cannot run at '0' \(linear\)"):
        backlight.explain(net, x, 0, rules=rule)


@pytest.mark.parametrize("name", list(ZOO)[::6])
def test_presets_are_for_any_network(name):
    net, x = animal(name)
    for preset in backlight.presets:
        rules = backlight.presets[preset]()
        for chosen in (preset, rules):
            assert not [note for note in backlight.plan(net, x, chosen).notes if "entry" in note or "the rule" in note]


@pytest.mark.parametrize("layers", [{"c": [1]}, {"c": None}, [1], ["c", 2]])
def test_layers_are_names(layers):
    net, x = made()
    with pytest.raises(ArgumentError, match=r"give names of layers; the relevance of channel c is then ex\.layers\["):
        backlight.explain(net, x, 0, layers=layers)


def test_pass_at_a_layer_of_another_width_is_an_error():
    net, x = animal("layer norm")
    with pytest.raises(ArgumentError, match="Pass needs as many outputs as inputs"):
        backlight.explain(net, x, 0, rules=Pass())


class Fold(nn.Module):
    """A module of the user's own, whose operator is a function."""

    def __init__(self, o):
        super().__init__()
        self.o = o

    def forward(self, x):
        return F.linear(x, self.o.weight, self.o.bias)


def test_a_class_of_the_users_own_selects_what_runs_in_it():
    torch.manual_seed(0)
    first, last = nn.Linear(4, 5), nn.Linear(5, 2)
    plain = nn.Sequential(first, nn.ReLU(), last).double()
    own, x = nn.Sequential(first, nn.ReLU(), Fold(last)).double(), torch.randn(3, 4, dtype=torch.float64)
    got = backlight.explain(own, x, 0, rules=backlight.Composite([(Fold, Gamma(0.5)), ("*", Zero())]))
    want = backlight.explain(plain, x, 0, rules=backlight.Composite([("2", Gamma(0.5)), ("*", Zero())]))
    zero = backlight.explain(plain, x, 0, rules=Zero())

    np.testing.assert_allclose(got.values, want.values, rtol=1e-12)
    assert np.abs(got.values - zero.values).max() > 1e-3


# a large stabiliser takes much, and that is said
@pytest.mark.filterwarnings("ignore::backlight.errors.BacklightWarning")
@pytest.mark.parametrize("epsilon", [1e-3, 0.5, 2.0])
def test_what_the_stabiliser_of_a_sum_takes_stands_in_the_ledger(epsilon):
    """R z/(|z| + ε) sign(z) leaves a sum z = a + b, with R = z here: z²/(|z| + ε) of z."""

    class Sum(nn.Module):
        def forward(self, x):
            return (x[:, :2] + x[:, 2:]).relu()

    x = torch.rand(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.1
    ex = backlight.explain(Sum(), x, 0, rules=backlight.Composite([("add", Proportional(epsilon))]))
    z = (x[:, 0] + x[:, 2]).numpy()

    np.testing.assert_allclose(ex.values.sum(1), z * z / (z + epsilon), rtol=1e-12)
    np.testing.assert_allclose(ex.ledger.absorbed.sum(0), z * epsilon / (z + epsilon), rtol=1e-12)
