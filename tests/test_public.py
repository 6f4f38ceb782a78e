"""The front door: names, weight, types, errors."""

import inspect
import subprocess
import sys

import numpy as np
import pytest

import backlight
from backlight import errors
from tests.conftest import same


def test_importing_loads_neither_torch_nor_scikit_learn():
    code = (
        "import sys, backlight; "
        "print([m for m in ('torch', 'sklearn', 'numpy', 'scipy', 'pandas', 'skops') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert out.stdout.strip() == "[]"


def test_help_loads_no_torch():
    code = (
        "import sys; sys.argv = ['backlight', '--help']\n"
        "from backlight.cli import main\n"
        "try: main()\n"
        "except SystemExit as e: assert not e.code\n"
        "assert 'torch' not in sys.modules and 'sklearn' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)


def test_public_names_are_pinned():
    assert sorted(backlight.__all__) == backlight.__all__ == [
        "Audit", "BacklightError", "Canonical", "Composite", "ContributionSums", "Evaluation", "Explainer", "Explanation", "Ledger",
        "Method", "NeuralizedModel", "Prototypes", "Reference", "Rewrite", "__version__", "audit", "canonize", "classical", "concepts",
        "constraints", "convolution", "dense", "derive", "engine", "equivalent", "errors", "evaluate", "examples",
        "explain", "explain_batches", "export", "first", "metrics", "neuralize", "plan", "presets", "priors",
        "prototype", "references", "rules", "spaces", "sum_batches", "symbolic", "targets", "testing", "text",
    ]  # fmt: skip
    for name in backlight.__all__:
        assert getattr(backlight, name) is not None
    assert dir(backlight) == backlight.__all__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = backlight.nothing


def test_every_error_is_a_backlight_error_and_the_tree_names_it():
    for name in errors.__all__:
        cls = getattr(errors, name)
        assert issubclass(cls, UserWarning if name.endswith("Warning") else backlight.BacklightError)
        assert name in errors.__doc__
        assert cls.__doc__


def test_the_signature_is_the_contract():
    parameters = list(inspect.signature(backlight.explain).parameters)
    assert parameters == ["model", "X", "target", "method", "rules", "score", "reference", "layers", "canonical", "strict",
                          "rows", "batch_size", "device", "feature_names", "seed", "output", "progress"]  # fmt: skip
    parameters = list(inspect.signature(backlight.prototype).parameters)
    assert parameters == ["model", "target", "prior", "data", "strength", "space", "bounds", "constraints", "init",
                          "restarts", "optimizer", "exact", "seed", "progress", "steps", "count", "apart"]  # fmt: skip


def test_batches_progress_and_strictness(capsys):
    from sklearn.neighbors import KernelDensity

    X = np.random.default_rng(0).normal(size=(100, 3))
    model = KernelDensity().fit(X)
    whole = backlight.explain(model, X, strict=True)
    seen = []

    in_parts = backlight.explain(
        model, (X[i : i + 30] for i in range(0, 100, 30)), progress=lambda a, b: seen.append(a)
    )

    assert same(in_parts.values, whole.values)
    assert seen == [30, 60, 90, 100]
    assert same(backlight.explain(model, X, batch_size=7).values, whole.values)
    backlight.explain(model, X, progress=True)
    assert "100 of 100 rows" in capsys.readouterr().err
    with pytest.raises(errors.ArgumentError, match="batch_size must be"):
        backlight.explain(model, X, batch_size=0)
    with pytest.raises(errors.DataError, match="no rows"):
        backlight.explain(model, X[:0])


def test_strict_raises_where_a_rule_leaves_something_unexplained():
    from sklearn.neighbors import KernelDensity

    class Leaky(backlight.classical.NeuralizedModel):
        def relevance(self, *args, **options):
            out = super().relevance(*args, **options)
            out.values[:] *= 0.9
            return out

    X = np.random.default_rng(0).normal(size=(20, 3))
    net = backlight.neuralize(KernelDensity().fit(X))
    net.__class__ = Leaky
    assert np.abs(backlight.explain(net, X + 1).residual).max() > 1e-3
    with pytest.raises(errors.ConservationError, match="is left unexplained"):
        backlight.explain(net, X + 1, strict=True)


def test_data_loaders_are_read_batch_by_batch():
    import torch
    from sklearn.neighbors import KernelDensity

    X = np.random.default_rng(0).normal(size=(20, 3))
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.tensor(X)), batch_size=8)
    model = KernelDensity().fit(X)

    assert same(backlight.explain(model, loader).values, backlight.explain(model, X).values)


def test_public_names_mean_the_same_whatever_module_is_imported_first():
    code = """
import importlib, inspect, pkgutil, backlight
for found in pkgutil.walk_packages(backlight.__path__, "backlight."):
    if not found.name.startswith(("backlight.cli", "backlight.__main__", "backlight._export")):
        importlib.import_module(found.name)
rooms = {"classical", "concepts", "constraints", "engine", "errors", "examples", "metrics", "presets", "priors",
         "references", "rules", "spaces", "symbolic", "targets", "testing", "text"}
for name in backlight.__all__:
    assert name in rooms or not inspect.ismodule(getattr(backlight, name)), name
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def _verbs():
    for name in backlight.__all__:
        thing = getattr(backlight, name)
        if inspect.isfunction(thing):
            yield name, thing
        elif inspect.isclass(thing) and not issubclass(thing, BaseException):
            for method, value in vars(thing).items():
                if inspect.isfunction(value) and (not method.startswith("_") or method == "__call__"):
                    yield f"{name}.{method}", value
    yield "neuralize", type(backlight.neuralize).__call__


def test_help_shows_types_and_where_they_are_found():
    """No quoted strings, nothing that says only that it is anything, no private module before a function's name."""
    import pydoc

    for name, verb in _verbs():
        signature = inspect.signature(verb)
        assert not any(repr(p.annotation).startswith("'") for p in signature.parameters.values()), name
        if "." not in name:
            assert ": Any" not in str(signature), name
    shown = pydoc.render_doc(backlight.explain, renderer=pydoc.plaintext)
    assert "function explain in module backlight\n" in shown
    assert "explain(model: ModelLike, X: RowsLike, target: TargetLike = None" in shown
    assert "-> Explanation" in shown


def test_types_of_signatures_resolve():
    import typing

    hints = typing.get_type_hints(backlight.explain)
    assert hints["return"] is backlight.Explanation
    assert hints["strict"] is bool


def test_every_name_for_what_users_hand_over_is_explained():
    from backlight import hints

    for name in hints.__all__:
        assert name == "readable" or f"``{name}``" in hints.__doc__
