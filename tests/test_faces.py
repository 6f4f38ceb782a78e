"""Notebook faces: every result that prints itself shows itself too, with names escaped and no colours of its own."""

import importlib
import inspect
import pkgutil

import pytest
import torch
from torch import nn

import backlight

# what is given to a call, not what comes back, prints in a line, and so does the type of an argument
_ASKED = {"Prior", "Reference", "Custom", "Rule", "Space", "Hint"}


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


def decoded(shown):
    """The pictures of a page, by Pillow: (height, width, channels) each."""
    import base64
    import io
    import re

    import numpy as np
    from PIL import Image

    found = re.findall(r'src="data:image/png;base64,([^"]+)"', shown)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(text)))) for text in found]


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_show_their_pixels_and_their_relevance(channels):
    import numpy as np

    from backlight.explanation import Explanation

    data = np.zeros((2, channels, 5, 6))
    data[0, 0, 1, 2] = 2.0
    values = np.zeros((2, channels, 5, 6))
    values[0, 0, 1, 2], values[0, 0, 4, 5] = 3.0, -3.0
    ex = Explanation(values, output=[1.0, 0.0], base_values=[1.0, 0.0], data=data, target="<b>cat")
    shown = ex._repr_html_()
    first, heat, *_ = decoded(shown)

    assert "<b>cat" not in shown
    assert first[1, 2].max() == 255
    assert first[0, 0].max() == 0
    red, blue = heat[1, 2], heat[4, 5]
    assert red[0] > red[2]
    assert blue[2] > blue[0]
    assert red[3] == blue[3] == 255
    assert heat[..., 3].sum() == 2 * 255


def test_large_pictures_are_thinned_and_many_rows_are_counted():
    import numpy as np

    from backlight.explanation import Explanation

    n = 5
    data = np.random.default_rng(0).random((n, 3, 600, 300))
    shown = Explanation(data, output=np.zeros(n), base_values=np.zeros(n), data=data)._repr_html_()

    assert max(max(picture.shape) for picture in decoded(shown)) <= 256
    assert "2 more rows" in shown
    assert len(shown) < 3e6


def test_several_targets_of_a_table_are_columns_with_the_score_below():
    import numpy as np

    from backlight.explanation import Explanation

    values = np.array([[[1.0, -4.0], [2.0, 0.5]]])
    ex = Explanation(
        values, output=[[3.5, -3.0]], base_values=[[0.5, 0.5]], feature_names=["<a>", "b"], output_names=["x", "y"]
    )
    shown = ex._repr_html_()

    assert "<a>" not in shown
    assert shown.index("&lt;a&gt;") < shown.index(">b<")  # −4 counts most
    for text in ("+1", "-4", "+2", "+0.5", "3.5", "-3"):
        assert f">{text}<" in shown


def test_networks_and_composites_say_what_they_are():
    from sklearn.datasets import load_wine
    from sklearn.svm import OneClassSVM

    wine = load_wine(as_frame=True)
    shown = backlight.neuralize(OneClassSVM(nu=0.1).fit(wine.data))._repr_html_()
    assert "outlierness" in shown
    assert "SoftMinPool" in shown
    assert "alcohol" in shown
    rules = backlight.Composite([(backlight.first, backlight.rules.ZPlus()), (nn.Linear, backlight.rules.Epsilon())])
    assert repr(rules) == "Composite 'composite': first → ZPlus(), Linear → Epsilon()"
    assert "Linear" in rules._repr_html_()
    assert not any("0x" in repr(make()) for make in backlight.presets.values())


def test_what_was_found_scrolls_within_itself():
    import numpy as np
    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression

    X, y = load_iris(return_X_y=True)
    model = LogisticRegression(max_iter=500).fit(X, y)
    found = backlight.prototype(model, data=X)
    net = nn.Sequential(nn.Linear(4, 3)).double()
    for result in (
        found, found.evaluate(X, y), backlight.evaluate(model, X[:8], ["lrp", "random"], metrics=["srg"]),
        backlight.plan(net, np.zeros((1, 4))),
    ):  # fmt: skip
        shown = result._repr_html_()
        assert "overflow-x:auto" in shown
        assert shown.count("<tr>") > 1
