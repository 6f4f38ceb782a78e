"""A law of what the rooms hold, constructors and functions, and of the methods of results: junk works, or is refused in a sentence."""

import functools
import inspect
import warnings

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.svm import OneClassSVM
from torch import nn

import backlight
from tests.test_arguments import JUNK

mpl.use("Agg")
ROOMS = ("rules", "priors", "constraints", "targets", "spaces", "references", "text", "concepts", "symbolic")
# what is called with tensors by those who write a rule, or made by the package itself
INSIDE = {
    *("BoundRule", "Contraction", "Convolution", "Dense", "Elementwise", "Facts", "LinearMap", "LinearRule", "Message"),
    *("Rule", "SoftMinRule", "as_gradient", "divide", "dot", "named", "relevance", "row_sums", "SignedPools"),
    *("Prior", "Sum", "Whitening", "Constraint", "Region", "compiled", "Seen", "Target", "Term", "Space"),
    *("Fill", "Reference", "as_reference", "reference", "Folder", "Said", "Similarity", "Span", "Patching", "Ranking"),
    *("Counterexample", "Derivation", "NotProved", "PoolingLimit", "Proof", "always_different_from", "spans"),
    *("TreePath", "TreeShapley", "CompleteContribution", "PartialContribution", "ReconstructionContribution"),
    *("ConditionalSurprise", "GlobalImportance", "Midpoint"),
    *("derive", "equivalent"),  # tried with the verbs
}
# made by the package itself, or of its own arrays
INSIDE_METHODS = {"made", "of", "joined", "assembled", "point", "relevance", "rule", "original", "reference_of"} | {
    "score_without_self", "self_index", "embed", "forward", "outcome", "fine", "load",
}  # fmt: skip


def parts():
    for room in ROOMS:
        module = getattr(backlight, room)
        for name in module.__all__:
            part = getattr(module, name)
            if name not in INSIDE and callable(part) and inspect.signature(part).parameters:
                yield pytest.param(part, id=f"{room}.{name}")
    yield pytest.param(backlight.Composite, id="Composite")
    yield pytest.param(backlight.Method, id="Method")


@functools.cache
def needed():
    """What a parameter without a default is given, by its name."""
    torch.manual_seed(0)
    X = np.random.default_rng(0).normal(size=(9, 3))
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).double().eval()
    return {
        "X": X, "other": X + 1, "rows": X, "data": X, "x0": X[0], "mean": X[0], "cov": np.eye(3), "lam": 1.0, "A": np.eye(3),
        "bandwidth": 1.0, "W": np.ones((3, 2)), "weights": {"a": 1.0}, "means": X[:2], "covs": np.stack([np.eye(3)] * 2),
        "model": net, "network": net, "first": net, "second": net, "layer": "0", "conditions": {"0": [0]}, "k": 1,
        "fn": lambda y: y[:, 0], "function": lambda y: y[:, 0], "decoder": lambda z: z, "code_dim": 2, "shape": (1, 4, 4),
        "target": backlight.targets.logit(0), "distances": X**2, "gamma": 1.0, "entries": [], "estimator": None,
        "vector": [1.0, 2.0], "index": 0, "unit": 0, "vectors": np.eye(4), "point": X[0],
    }  # fmt: skip


def outcome(call):
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            call()
    except backlight.BacklightError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("part", [*parts()])
def test_a_part_takes_an_argument_or_says_what_it_takes(part):
    parameters = inspect.signature(part).parameters.values()
    for asked in parameters:
        for kind, value in JUNK.items():
            named = {}
            for one in parameters:
                if one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD):
                    continue
                if one is asked:
                    named[one.name] = value
                elif one.default is one.empty:
                    named[one.name] = needed().get(one.name, "a")
            several = [value] if asked.kind is asked.VAR_POSITIONAL else []
            said = outcome(lambda: part(*several, **named))  # noqa: B023 - called at once
            assert len(said) < 500, (asked.name, kind, said)


@functools.cache
def results():
    torch.manual_seed(0)
    X = np.random.default_rng(0).normal(size=(12, 3))
    linear = LogisticRegression().fit(X, np.arange(12) % 3)
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).double().eval()
    small = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1)).double().eval()
    ex = backlight.explain(net, X[:4], "all")
    judged = backlight.evaluate(net, X[:4], ["lrp", "gradient"], fractions=3)
    audit = backlight.audit(net, X[:3])
    made = backlight.prototype(linear, prior=backlight.priors.Gaussian.fit(X))
    derived = backlight.derive(small)
    found = [
        backlight.Explainer(linear), backlight.explain(linear, X[:4]), ex, ex.ledger, backlight.plan(net, X[:2]),
        backlight.canonize(net), audit, made, judged, derived, backlight.neuralize(OneClassSVM().fit(X)),
        backlight.concepts.ranking(net, X, "0", 0), ex.plot, judged.plot, audit.plot, made.plot, derived.plot,
    ]  # fmt: skip
    return {type(one).__name__ + str(k): one for k, one in enumerate(found)}


def methods():
    for name, result in results().items():
        inherited = dir(nn.Module) if isinstance(result, nn.Module) else ()
        for method in dir(type(result)):
            public = method == "__call__" or not method.startswith("_")
            if (
                not public
                or method in inherited
                or method in INSIDE_METHODS
                or not callable(getattr(type(result), method))
            ):
                continue
            yield f"{name}.{method}", getattr(result, method)


def test_a_method_takes_an_argument_or_says_what_it_takes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    raw, tried = [], 0
    for name, method in methods():
        parameters = inspect.signature(method).parameters.values()
        for asked in parameters:
            if asked.kind in (asked.VAR_POSITIONAL, asked.VAR_KEYWORD) or asked.name in ("ax", "axes", "judges"):
                continue
            for kind, value in JUNK.items():
                if asked.name == "progress" and callable(value):
                    continue  # a user's own function is called, and what it raises is theirs
                needs = [one for one in parameters if one.default is one.empty and one.kind is not one.VAR_KEYWORD]
                given = {one.name: needed()["X"] if one.name == "X" else 0 for one in needs}
                if "path" in given:
                    given["path"] = str(tmp_path / f"{tried}.safetensors")
                tried += 1
                try:
                    said = outcome(lambda: method(**{**given, asked.name: value}))  # noqa: B023 - called at once
                except Exception as error:
                    raw.append(f"{name}({asked.name}={kind}): {type(error).__name__}: {error}"[:150])
                else:
                    assert len(said) < 500, (name, asked.name, kind, said)
        plt.close("all")
    assert not raw, "\n".join(raw)
    assert tried > 500
