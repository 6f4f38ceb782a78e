"""Adapters of other libraries are light: imported by nobody but the model that is theirs, small, and of pinned versions."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import backlight
from backlight.classical.frontend.preprocessing import transformers

ROOT = Path(__file__).resolve().parents[1]
# the name that is imported, and the one that is installed
FOREIGN = {
    "xgboost": "xgboost", "lightgbm": "lightgbm", "catboost": "catboost", "pyod": "pyod", "imblearn": "imbalanced-learn",
    "category_encoders": "category-encoders", "feature_engine": "feature-engine", "statsmodels": "statsmodels",
    "skorch": "skorch",
}  # fmt: skip


def adapters():
    """The registered functions of other libraries, by the library's name."""
    found = []
    for registry in (backlight.neuralize._models, transformers):
        for name in registry.names:
            library = name.partition(".")[0]
            if library not in ("sklearn", "backlight", "builtins"):
                found.append((library, registry._functions[name]))
    return found


def test_nothing_is_imported_that_the_model_is_not_made_of():
    code = f"""
import sys
import numpy as np
import backlight
assert not set({sorted(FOREIGN)} + ["shap", "hdbscan"]) & set(sys.modules)
from sklearn.linear_model import LogisticRegression
X = np.random.default_rng(0).normal(size=(20, 3))
backlight.explain(LogisticRegression().fit(X, X[:, 0] > 0), X)
backlight.neuralize.supported
print(sorted(set({sorted(FOREIGN)} + ["shap", "hdbscan", "torchvision", "transformers"]) & set(sys.modules)))
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.stdout.strip() == "[]", found.stderr


def test_every_library_has_an_adapter():
    # imbalanced-learn's models are those of scikit-learn, that they inherit from
    assert {library for library, _ in adapters()} >= set(FOREIGN) - {"imblearn"}


@pytest.mark.parametrize("library", sorted(FOREIGN))
def test_an_adapter_is_one_small_file(library):
    for name, function in adapters():
        if name == library:
            lines = len(Path(inspect.getsourcefile(function)).read_text().splitlines())
            assert lines <= 125, f"{function.__module__} has {lines} lines"


def test_tested_versions_are_pinned_and_installed_by_the_tests_own_extra():
    constraints, project = ROOT / "constraints.txt", ROOT / "pyproject.toml"
    if not constraints.exists():
        pytest.skip("the pinned versions are not beside the tests")
    pinned = {line.partition("==")[0].lower() for line in constraints.read_text().splitlines() if "==" in line}
    assert set(FOREIGN.values()) <= pinned
    named = set(re.findall(r'"([a-z-]+)[>\[]', project.read_text()))
    assert set(FOREIGN.values()) <= named
