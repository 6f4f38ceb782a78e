"""A warning stands at the user's own line, however deep inside the package it is said."""

import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_wine
from sklearn.linear_model import LogisticRegression
from torch import nn

import backlight
from backlight import constraints, priors, rules
from backlight.errors import BacklightWarning


def outside_its_box():
    net = nn.Sequential(nn.Linear(3, 2)).eval()
    return lambda: backlight.explain(net, torch.ones(2, 3), rules=rules.Box(0.0, 0.5))


def a_probability():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    return lambda: backlight.explain(net, torch.ones(2, 3), target=lambda y: y.softmax(-1)[:, 0])


def rows_that_see_each_other():
    class Centred(nn.Module):
        def forward(self, x):
            return (x - x.mean(0)).pow(2)

    return lambda: backlight.explain(Centred(), torch.randn(4, 3), target=0)


def a_flow():
    owner = nn.Linear(2, 2)
    owner.log_prob = lambda x: x.sum(-1)
    return lambda: priors.LogProb(owner)


def no_such_prototype():
    wine = load_wine()
    model = LogisticRegression(max_iter=4000).fit(wine.data, wine.target)
    kept = [constraints.decision(margin=2.0), constraints.fix(*range(12))]
    asked = {"prior": priors.Near(wine.data[0], data=wine.data), "constraints": kept, "bounds": {12: (1000, 1100)}}
    return lambda: backlight.prototype(model, strength=np.inf, **asked)


CASES = [outside_its_box, a_probability, rows_that_see_each_other, a_flow, no_such_prototype]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_a_warning_stands_at_the_users_line(case):
    call = case()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        call()
    ours = [one for one in said if issubclass(one.category, BacklightWarning)]
    assert ours
    assert {one.filename for one in ours} == {__file__}
    assert {one.lineno for one in ours} == {call.__code__.co_firstlineno}


def test_every_warning_is_said_in_one_way():
    root = Path(backlight.__file__).parent
    named = {
        str(path.relative_to(root))
        for path in root.rglob("*.py")
        if re.search(r"\bwarnings\.warn(_explicit)?\(", path.read_text(encoding="utf-8"))
    }
    # the name that the package had for a room before is said where Python looks it up
    assert named == {"errors.py", "__init__.py"}
