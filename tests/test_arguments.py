"""A law of every public function: whatever an argument is given, it works, or one of our errors says in a sentence what is wrong."""

import functools
import inspect
import sys
import warnings

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

import backlight
from backlight.arguments import _ELSEWHERE, checked, shown
from backlight.errors import UnknownArgument

# what nobody means, of every type that is at hand
JUNK = {
    "none": None, "text": "zz", "no text": "", "whole": 3, "negative": -2, "huge": 10**20, "fraction": 0.5,
    "nan": float("nan"), "infinity": float("inf"), "true": True, "object": object(), "list": [1, 2], "no list": [],
    "names": ["a", "b"], "dict": {"a": 1}, "array": np.ones(3), "matrix": np.ones((2, 7)),
    "objects": np.array(["a", None], dtype=object), "function": lambda *a: None, "class": int,
    "tensor": torch.ones(2, 2, 2), "set": {1}, "bytes": b"x", "complex": 1j, "missing": np.full(4, np.nan),
    "pair": (1, 2), "ragged": [[1], [2, 3]], "module": nn.Linear(2, 2), "python module": sys, "triple": (None, "a", 1),
}  # fmt: skip


@functools.cache
def given():
    """Arguments with which each public function works."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(40, 4)), np.arange(40) % 3
    linear = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, y)
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).double().eval()
    small = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1)).double().eval()
    rows = X[:3]
    explainer = backlight.Explainer(linear)
    return {
        "explain": [{"model": net, "X": rows}, {"model": linear, "X": rows}],
        "Explainer": [{"model": net}, {"model": linear}],
        "plan": [{"model": net, "X": rows}],
        "audit": [{"model": net, "X": rows}],
        "evaluate": [{"model": net, "X": rows, "explanations": ["lrp"], "fractions": 3}],
        "prototype": [{"model": linear}],
        "derive": [{"network": small}],
        "equivalent": [{"first": small, "second": small}],
        "canonize": [{"model": net}],
        "neuralize": [{"model": linear}],
        "export": [{"explainer": explainer}],
        "explain_batches": [{"explainer": explainer, "source": [rows]}],
        "sum_batches": [{"explainer": explainer, "source": [rows]}],
    }


def test_every_public_function_is_tried():
    public = {name for name in backlight.__all__ if inspect.isfunction(getattr(backlight, name))}
    assert public | {"Explainer", "neuralize"} == {*given(), "convolution", "dense", "first", "presets"} - {
        name for name in ("convolution", "dense", "first", "presets") if name not in public
    }


def outcome(function, named, *, started=False):
    """What one of our errors says; None where it works; any other error fails the test."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = function(**named)
            if started:
                next(iter(found), None)
    except backlight.BacklightError as error:
        return str(error)
    return None


def cases():
    for name in ("explain", "Explainer", "plan", "audit", "evaluate", "prototype", "derive", "equivalent", "canonize",
                 "neuralize", "export", "explain_batches", "sum_batches"):  # fmt: skip
        for parameter in inspect.signature(getattr(backlight, name)).parameters:
            yield name, parameter


@pytest.mark.parametrize(("name", "parameter"), [*cases()])
def test_an_argument_works_or_is_refused_in_a_sentence(name, parameter, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a sink called "zz" is written
    function = getattr(backlight, name)
    for base in given()[name]:
        for kind, value in JUNK.items():
            if parameter == "progress" and callable(value):
                continue  # the user's own function is called, and what it raises is theirs
            named = {**base, parameter: value}
            if name == "export" and parameter != "path":
                named["path"] = tmp_path / f"{kind}.sql"
            said = outcome(function, named, started=name == "explain_batches" and parameter != "sink")
            assert said is None or len(said) < 500, (kind, said)


def test_what_is_checked_and_how_it_is_said():
    @checked
    def function(X, *, strict=False, seed=0, score=None):
        return X, strict, seed, score

    assert function(1) == (1, False, 0, None)
    assert function(1, strict=np.True_, seed=np.int64(3), score="s") == (1, True, 3, "s")
    with pytest.raises(backlight.errors.ArgumentError, match="strict must be True or False, not 'false'"):
        function(1, strict="false")
    with pytest.raises(backlight.errors.ArgumentError, match=r"seed must be a whole number from 0 .*, not 0\.5"):
        function(1, seed=0.5)
    with pytest.raises(backlight.errors.ArgumentError, match=r"score must be a name, not an array of shape \(3,\)"):
        function(1, score=np.ones(3))
    assert "\n" not in shown({"a": "b\n" * 100})
    assert list(inspect.signature(function).parameters) == ["X", "strict", "seed", "score"]


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("background", "reference"), ("baselines", "reference"), ("class_idx", "target"), ("composite", "rules"),
        ("model_output", "score"), ("columns", "feature_names"), ("layer", "layers"), ("traget", "target"),
    ],
)  # fmt: skip
def test_names_of_other_libraries_and_slips_are_answered_with_ours(theirs, ours):
    linear = LogisticRegression().fit(np.eye(4), [0, 1, 0, 1])
    for call in (
        lambda: backlight.explain(linear, np.eye(4), **{theirs: None}),
        lambda: backlight.Explainer(linear, **{theirs: None}),
    ):
        with pytest.raises(UnknownArgument, match=f"has no argument '{theirs}': here it is {ours}=") as caught:
            call()
        assert isinstance(caught.value, TypeError)


def test_an_argument_that_nobody_knows_is_answered_with_all_that_there_are():
    with pytest.raises(UnknownArgument, match=r"^explain has no argument 'zzz': it takes model, X, target, .*seed"):
        backlight.explain(None, None, zzz=1)


def test_every_name_that_is_offered_is_an_argument_of_some_public_function():
    known = set()
    for name in given():
        function = getattr(backlight, name)
        known |= set(inspect.signature(function.__init__ if inspect.isclass(function) else function).parameters)
    offered = {ours for several in _ELSEWHERE.values() for ours in several}

    assert offered <= known
    assert not set(_ELSEWHERE) & offered
