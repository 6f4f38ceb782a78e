"""A part of the matrix of all models: nothing is wrong, nothing crashes, and refusals are short."""

import importlib.util
from pathlib import Path

import pytest

FILE = Path(__file__).resolve().parents[1] / "benchmarks" / "matrix.py"


@pytest.fixture(scope="module")
def matrix():
    if not FILE.exists():
        pytest.skip("the benchmarks are not beside the tests")
    spec = importlib.util.spec_from_file_location("matrix", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.filterwarnings("ignore")  # of what libraries warn at fit time
@pytest.mark.parametrize(
    ("part", "at_least"),
    [("Stacking", 6), ("Voting", 5), ("Tree", 12), ("Forest", 9), ("Boost", 12), ("Chain", 5), ("MultiTask", 12), ("Neighbors", 5),
     ("NB", 9), ("DBSCAN", 0), ("Dummy", 0)],
)  # fmt: skip
def test_every_model_works_or_is_refused_in_a_sentence(matrix, part, at_least, capsys):
    counts = matrix.run(matrix.sklearn_models(part))
    said = capsys.readouterr().out
    assert set(counts) <= {"works", "refused"}, said
    assert counts["works"] >= at_least, said


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("part", "library", "at_least"),
    [("xgboost", "xgboost", 8), ("lightgbm", "lightgbm", 5), ("catboost", "catboost", 3), ("imblearn", "imblearn", 5), ("pyod.k", "pyod", 2),
     ("pyod.a", "pyod", 1), ("Encoder", "category_encoders", 12), ("feature_engine", "feature_engine", 5), ("statsmodels", "statsmodels", 3),
     ("skorch", "skorch", 2), ("texts", "sklearn", 2), ("torch", "torch", 1)],
)  # fmt: skip
def test_models_of_other_libraries_work_or_are_refused_in_a_sentence(matrix, part, library, at_least, capsys):
    pytest.importorskip(library)
    counts = matrix.run(matrix.other_models(part), part)
    said = capsys.readouterr().out
    assert set(counts) <= {"works", "refused"}, said
    assert counts["works"] >= at_least, said
