"""Notebook faces: every result that prints itself shows itself too, with names escaped and no colours of its own."""

import importlib
import inspect
import pkgutil

import pytest
import torch
from torch import nn

import backlight

# what is given to a call, not what comes back, prints in a line
_ASKED = {"Prior", "Reference", "Custom", "Rule", "Space"}


def printed():
    """The classes of the package that say themselves how they print."""
    for found in pkgutil.walk_packages(backlight.__path__, "backlight."):
        # modules of libraries that are not here have no results of their own
        if found.name.endswith("__main__") or found.name.startswith(("backlight.cli", "backlight._export")):
            continue
        module = importlib.import_module(found.name)
        for name, cls in vars(module).items():
            if inspect.isclass(cls) and cls.__module__ == found.name and "__repr__" in vars(cls):
                code = getattr(vars(cls)["__repr__"], "__code__", None)
                if code is not None and "backlight" in code.co_filename:
                    yield name, cls


def test_what_prints_itself_has_a_face():
    without = {name for name, cls in printed() if not hasattr(cls, "_repr_html_")}

    assert without == _ASKED


@pytest.mark.parametrize("rule", ["gamma", "zplus"])
def test_formulas_are_drawn_with_escaped_names(rule):
    hostile = ["<script>x", "a&b"]
    found = backlight.derive(backlight.examples.min_networks().i, rule, feature_names=hostile)
    point = found.at(**{"<script>x": 2, "a&b": 1})
    for result in (found, found.regions[0], point):
        shown = result._repr_html_()
        assert "<math" in shown
        assert "<script" not in shown
        assert "a&b" not in shown
        assert "a&amp;b" in shown


def test_audits_ledgers_and_canonical_forms_are_tables_in_the_notebooks_own_colours():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).double().eval()
    X = torch.randn(6, 3, dtype=torch.float64)
    explained = backlight.explain(net, X, target=0)
    for result in (explained.ledger, backlight.audit(net, X), backlight.canonize(net, X=X[:2])):
        shown = result._repr_html_()
        assert shown.count("<tr>") > 1
        assert "overflow-x:auto" in shown
        assert not any(word in shown for word in ("color:#", "color:white", "color:black", "background:"))
    assert "Epsilon" in explained.ledger._repr_html_()


def test_proofs_are_words():
    one, two = backlight.examples.min_networks()
    shown = backlight.equivalent(one, two, domain="nonnegative")._repr_html_()

    assert "the same function" in shown
    assert shown.startswith("<pre")
