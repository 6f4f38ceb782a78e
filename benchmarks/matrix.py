"""Which models are networks: all estimators of scikit-learn in three settings each, and models of other libraries.

Prints for every one of them whether it works (its score is the library's own, and base and contributions add up to it),
is refused by name, is wrong, or ends in an error that is not this project's; and counts.

    python benchmarks/matrix.py [part of a name] [--sklearn | --others]
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import itertools
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

import backlight
from backlight.classical.layers.deep import Deep
from backlight.classical.trust import METHODS

# Other values of the options that change what a model computes; the first two that a class has are its other settings.
OPTIONS: dict[str, list[Any]] = {
    "kernel": ["linear", "poly"], "algorithm": [], "covariance_type": ["diag", "tied"], "weights": ["distance"],
    "voting": ["soft"], "method": ["isotonic"], "metric": ["manhattan"], "n_neighbors": [3], "loss": [], "max_depth": [3],
    "n_estimators": [7], "max_iter": [30], "hidden_layer_sizes": [(6,), (5, 4)], "activation": ["tanh"],
    "power": [1.5], "n_clusters": [3], "n_components": [2], "bandwidth": [0.7], "shrink_threshold": [0.2],
    "nu": [0.3], "alpha": [0.5], "C": [0.3], "fit_intercept": [False], "contamination": [0.1], "var_smoothing": [1e-3],
    "reg_param": [0.3], "l1_ratio": [0.2], "store_precision": [], "gamma": [0.2], "solver": [], "learning_rate": [],
    "max_features": [0.6], "strategy": [], "normalize_y": [True], "degree": [2], "tol": [1e-3], "n_alphas": [20], "cv": [2],
    "damping": [0.8], "support_fraction": [0.9], "assume_centered": [True], "positive": [True], "eps": [0.5],
    "n_iter": [4], "threshold": [0.5], "epsilon": [0.2], "norm_order": [], "priors": [], "min_samples": [5],
}  # fmt: skip


def _members(name: str) -> dict[str, Any]:
    """Arguments that a class cannot do without."""
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.naive_bayes import GaussianNB
    from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

    if name in ("VotingClassifier", "StackingClassifier"):
        return {
            "estimators": [("a", LogisticRegression()), ("b", DecisionTreeClassifier(max_depth=3)), ("c", GaussianNB())]
        }
    if name in ("VotingRegressor", "StackingRegressor"):
        return {"estimators": [("a", Ridge()), ("b", DecisionTreeRegressor(max_depth=3))]}
    search = {"GridSearchCV": "param_grid", "RandomizedSearchCV": "param_distributions",
              "HalvingGridSearchCV": "param_grid", "HalvingRandomSearchCV": "param_distributions"}  # fmt: skip
    if name in search:
        return {"estimator": Ridge(), search[name]: {"alpha": [0.1, 1.0]}, "cv": 2}
    if name in ("MultiOutputRegressor", "RegressorChain", "TransformedTargetRegressor"):
        return {"estimator" if name != "TransformedTargetRegressor" else "regressor": Ridge()}
    if name in ("MultiOutputClassifier", "ClassifierChain", "OneVsRestClassifier", "OneVsOneClassifier",
                "OutputCodeClassifier", "SelfTrainingClassifier", "TunedThresholdClassifierCV", "FixedThresholdClassifier",
                "RFE", "RFECV"):  # fmt: skip
        return {"estimator": LogisticRegression()}
    if name == "FrozenEstimator":
        return {"estimator": Ridge()}
    return {}


OTHER_MEMBERS = {
    "TransformedTargetRegressor": [{"func": np.log1p, "inverse_func": np.expm1}],
    "SelfTrainingClassifier": [], "ClassifierChain": [{"order": [1, 0]}], "MultiOutputRegressor": [], "RegressorChain": [],
    "VotingClassifier": [{"voting": "soft"}, {"voting": "soft", "weights": [1, 2, 1]}],
    "VotingRegressor": [{"weights": [1, 2]}], "StackingClassifier": [{"passthrough": True}], "StackingRegressor": [{"passthrough": True}],
    "LocalOutlierFactor": [{"novelty": True}, {"novelty": True, "metric": "manhattan"}],
    "SVC": [{"kernel": "linear"}, {"gamma": 0.3, "decision_function_shape": "ovo"}],
    "AdaBoostRegressor": [{"n_estimators": 5}, {"loss": "square"}],
    "GradientBoostingClassifier": [{"n_estimators": 7}, {"max_depth": 2, "subsample": 0.7}],
    "HistGradientBoostingRegressor": [{"loss": "poisson"}, {"max_iter": 7}],
    "HistGradientBoostingClassifier": [{"max_iter": 7}, {"max_depth": 2}],
}  # fmt: skip


def _settings(cls: type, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    given = _members(name)
    yield "default", given
    others = list(OTHER_MEMBERS.get(name, []))
    known = cls().get_params(deep=False) if not given else cls(**given).get_params(deep=False)
    for option, values in OPTIONS.items():
        if len(others) >= 2:
            break
        if option in known:
            others += [{option: value} for value in values if value != known[option]]
    for other in others[:2]:
        yield ", ".join(f"{key}={value}" for key, value in other.items()), {**given, **other}


def _data(name: str, tags: Any, rng: np.random.Generator) -> tuple[np.ndarray, Any]:
    """Small correlated blobs, and what a class is fitted to."""
    y = rng.integers(0, 3, 120)
    X = rng.normal(size=(120, 5)) @ (rng.normal(size=(5, 5)) / 2 + np.eye(5)) + 2.5 * rng.normal(size=(3, 5))[y]
    if tags.input_tags.positive_only or name in ("CategoricalNB", "ComplementNB", "MultinomialNB"):
        X = np.clip(np.round(X + 4), 0, 11)
    if name == "BernoulliRBM":
        X = 1 / (1 + np.exp(-X))
    if name == "IsotonicRegression":
        X = X[:, :1]
    target = np.abs(X[:, 0] + np.sin(X[:, -1])) + 0.1
    if name.startswith("MultiTask") or name in ("MultiOutputRegressor", "RegressorChain", "PLSCanonical", "CCA"):
        return X, np.stack([target, target**2 + rng.normal(size=120)], 1)
    if name in ("MultiOutputClassifier", "ClassifierChain"):
        return X, np.stack([y > 0, y > 1], 1).astype(int)
    regresses = tags.estimator_type == "regressor" or name in ("FrozenEstimator", *_SEARCHES)
    if name in ("TunedThresholdClassifierCV", "FixedThresholdClassifier"):
        return X, (y > 0).astype(int)
    return X, target if regresses else y


_SEARCHES = ("GridSearchCV", "RandomizedSearchCV", "HalvingGridSearchCV", "HalvingRandomSearchCV")


def sklearn_models(part: str = "", settings: int = 3) -> Iterator[tuple[str, Any, np.ndarray]]:
    """Fitted estimators that score rows, with the rows, in so many settings each."""
    from sklearn.experimental import enable_halving_search_cv  # noqa: F401
    from sklearn.utils import all_estimators

    for name, cls in all_estimators():
        scores = ("predict", "decision_function", "score_samples", "kneighbors", "fit_predict")
        if not any(hasattr(cls, method) for method in scores) or name == "Pipeline":
            continue
        if part not in name:
            continue
        for setting, arguments in itertools.islice(_settings(cls, name), settings):
            try:
                model = cls(**arguments)
                X, y = _data(name, model.__sklearn_tags__(), np.random.default_rng(0))
                if name == "FrozenEstimator":
                    arguments["estimator"].fit(X, y)
                if "random_state" in model.get_params():
                    model.set_params(random_state=0)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    model.fit(X, y)
            except Exception as error:  # a setting that the library itself does not fit is not counted
                print(f"{'not fitted':10} {name}({setting}): {' '.join(str(error).split())[:100]}")
                continue
            yield f"{name}({setting})", model, X


def other_models(part: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Fitted models of other libraries, with rows; those that are not installed are left out and said."""
    import pandas as pd
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline

    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 150)
    X = rng.normal(size=(150, 5)) + 2.5 * rng.normal(size=(3, 5))[y]
    two, number = (y > 0).astype(int), np.abs(X[:, 0] + X[:, 1]) + 0.1
    frame = pd.DataFrame({"a": X[:, 0] + 9, "city": np.array(["x", "y", "z"])[y], "b": X[:, 1] + 9})

    def fitted(name: str, make: Any, rows: Any, *target: Any) -> Iterator[tuple[str, Any, Any]]:
        if part not in name:
            return
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield name, make().fit(rows, *target), rows
        except Exception as error:  # not installed, or not fitted by the library itself
            print(f"{'not fitted':10} {name}: {' '.join(str(error).split())[:100]}")

    boosters = {
        "xgboost.XGBClassifier": (two, {}), "xgboost.XGBClassifier ": (y, {}), "xgboost.XGBRegressor": (number, {}),
        "xgboost.XGBRFClassifier": (two, {}), "xgboost.XGBRFRegressor": (number, {}),
        "xgboost.XGBRegressor ": (number, {"booster": "dart"}), "xgboost.XGBRegressor  ": (number, {"objective": "count:poisson"}),
        "lightgbm.LGBMClassifier": (two, {"verbose": -1}), "lightgbm.LGBMClassifier ": (y, {"verbose": -1}),
        "lightgbm.LGBMRegressor": (number, {"verbose": -1}), "lightgbm.LGBMRegressor ": (number, {"verbose": -1, "objective": "poisson"}),
        "catboost.CatBoostClassifier": (y, {"verbose": 0, "allow_writing_files": False}),
        "catboost.CatBoostRegressor": (number, {"verbose": 0, "allow_writing_files": False}),
    }  # fmt: skip
    for name, (target, options) in boosters.items():
        yield from fitted(name, lambda name=name, o=options: _named(name.strip())(n_estimators=8, **o), X, target)
    kinds = frame.assign(city=frame.city.astype("category"))
    on_kinds = {
        "xgboost.XGBRegressor, categories": (kinds, {"enable_categorical": True}),
        "lightgbm.LGBMRegressor, categories": (kinds, {"verbose": -1, "min_data_per_group": 5}),
        "catboost.CatBoostRegressor, categories": (
            frame, {"verbose": 0, "allow_writing_files": False, "cat_features": ["city"]},
        ),
    }  # fmt: skip
    for name, (rows, options) in on_kinds.items():
        make = name.partition(",")[0]
        yield from fitted(name, lambda make=make, o=options: _named(make)(n_estimators=8, **o), rows, number)
    for name in PYOD:
        rows = X[:, :1] if name == "mad.MAD" else X  # a detector of one column
        options = {"n_features": 5} if name == "deep_svdd.DeepSVDD" else {}
        yield from fitted(f"pyod.{name}", lambda name=name, o=options: _named(f"pyod.models.{name}")(**o), rows)
    for name in (
        "BalancedRandomForestClassifier",
        "BalancedBaggingClassifier",
        "EasyEnsembleClassifier",
        "RUSBoostClassifier",
    ):
        yield from fitted(
            f"imblearn.{name}", lambda name=name: _named(f"imblearn.ensemble.{name}")(n_estimators=3), X, two
        )
    for name in ENCODERS:
        yield from fitted(
            name, lambda name=name: make_pipeline(_named(f"category_encoders.{name}")(), Ridge()), frame, number
        )
    for name in ENGINE:
        rows = frame if name.startswith("encoding") else frame[["a", "b"]]
        yield from fitted(
            f"feature_engine.{name}",
            lambda name=name: make_pipeline(_named(f"feature_engine.{name}")(), Ridge()),
            rows,
            number,
        )
    yield from fitted("imblearn.pipeline", lambda: _named("imblearn.pipeline.make_pipeline")(
        _named("imblearn.over_sampling.RandomOverSampler")(), LogisticRegression()), X, two)  # fmt: skip
    for name, target in (("OLS", number), ("Logit", two), ("GLM", number)):
        yield from fitted(f"statsmodels.{name}", lambda name=name, t=target: _Late(name, t), np.c_[np.ones(150), X])
    yield from fitted("skorch.NeuralNetClassifier", lambda: _skorch("NeuralNetClassifier"), X.astype("f4"), two)
    yield from fitted("hdbscan.HDBSCAN", lambda: _named("hdbscan.HDBSCAN")(), X)
    yield from fitted("river.LogisticRegression", _River, X, two)
    texts = [" ".join(rng.choice(["good", "bad", "plot", "film", "nice"], 6)) for _ in y]
    for vectorizer in ("CountVectorizer", "TfidfVectorizer"):
        make = _named(f"sklearn.feature_extraction.text.{vectorizer}")
        yield from fitted(f"texts.{vectorizer}", lambda m=make: make_pipeline(m(), LogisticRegression()), texts, two)
    yield from fitted("torch.Autoencoder", lambda: _autoencoder(), X)
    yield from fitted("skorch.NeuralNetRegressor", lambda: _skorch(), X.astype("f4"), number.astype("f4")[:, None])


PYOD = [
    "abod.ABOD", "cblof.CBLOF", "cd.CD", "cof.COF", "copod.COPOD", "ecod.ECOD", "gmm.GMM", "hbos.HBOS", "iforest.IForest", "inne.INNE",
    "auto_encoder.AutoEncoder", "deep_svdd.DeepSVDD", "feature_bagging.FeatureBagging", "mad.MAD", "kde.KDE", "knn.KNN", "kpca.KPCA", "lmdd.LMDD", "loda.LODA", "lof.LOF", "mcd.MCD", "ocsvm.OCSVM", "pca.PCA", "qmcd.QMCD",
    "sampling.Sampling", "sod.SOD", "sos.SOS",
]  # fmt: skip
ENCODERS = [
    "BinaryEncoder", "CatBoostEncoder", "CountEncoder", "HelmertEncoder", "JamesSteinEncoder", "LeaveOneOutEncoder", "OneHotEncoder",
    "OrdinalEncoder", "SumEncoder", "TargetEncoder",
]  # fmt: skip
ENGINE = [
    "encoding.MeanEncoder", "encoding.OneHotEncoder", "transformation.LogTransformer", "outliers.Winsorizer",
    "discretisation.EqualWidthDiscretiser",
]  # fmt: skip
SINGLE = ("xgboost", "skorch", "pyod.auto_encoder", "pyod.deep_svdd")  # libraries that compute in single precision


class _Late:
    """Results of statsmodels, whose models take their data when they are made."""

    def __init__(self, name: str, y: Any) -> None:
        self.name, self.y = name, y

    def fit(self, X: Any) -> Any:
        model = getattr(_named("statsmodels.api"), self.name)(self.y, X)
        return model.fit(disp=0) if self.name == "Logit" else model.fit()


def _named(name: str) -> Any:
    """A thing by its full name."""
    import importlib

    room, _, last = name.rpartition(".")
    return importlib.import_module(name) if name == "statsmodels.api" else getattr(importlib.import_module(room), last)


class _River:
    """A model of river, which learns rows one by one and has another interface."""

    def fit(self, X: Any, y: Any) -> Any:
        model = _named("river.linear_model.LogisticRegression")()
        for row, label in zip(X, y, strict=True):
            model.learn_one(dict(enumerate(row)), bool(label))
        return model


def _skorch(kind: str = "NeuralNetRegressor") -> Any:
    import torch

    torch.manual_seed(0)
    units = 1 if kind == "NeuralNetRegressor" else 2
    net = torch.nn.Sequential(torch.nn.Linear(5, 6), torch.nn.ReLU(), torch.nn.Linear(6, units))
    options = {} if units == 1 else {"criterion": torch.nn.CrossEntropyLoss}
    return _named(f"skorch.{kind}")(net, max_epochs=2, verbose=0, **options)


def _autoencoder() -> Any:
    import torch

    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(5, 2), torch.nn.Tanh(), torch.nn.Linear(2, 5))
    return _named("backlight.classical.Autoencoder")(net)


def verdict(model: Any, X: Any, exactly: float = 1e-10) -> tuple[str, str]:
    """What becomes of one model: works, refused, wrong or crash, and why."""
    rows = X[:20]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            net = backlight.neuralize(
                model,
                columns=None
                if isinstance(rows, list)
                else list(getattr(rows, "columns", [f"x{j}" for j in range(rows.shape[1])])),
            )
            wanted = net.reference_score(rows)
            ex = backlight.explain(net, rows, "all" if net.score.outputs.names else None)
        except backlight.BacklightError as error:
            said = str(error)
            return ("refused" if len(said) <= 200 else "long"), said
        except Exception as error:  # this is what is counted
            return "crash", f"{type(error).__name__}: {error}"
    output = np.asarray(ex.output)
    given = output[:, 1] if output.ndim == 2 and wanted.ndim == 1 else output
    if np.abs(given - wanted).max() > exactly * max(1, np.abs(wanted).max()):
        return "wrong", f"score {net.score.name} off by {np.abs(given - wanted).max():.2g}"
    method = getattr(model, METHODS.get(net.score.name, ""), None)
    own = method(rows) if method is not None else None
    if isinstance(own, np.ndarray) and own.size == wanted.size and own.dtype.kind == "f":
        off = np.abs(own.reshape(wanted.shape) - wanted).max()
        if off > max(exactly, 1e-9) * max(1, np.abs(wanted).max()):
            return "wrong", f"{net.score.name} is not the model's: {off:.2g}"
    terms = np.abs(output) + np.abs(ex.base_values) + np.abs(ex.values).sum(1)
    left = np.abs(ex.residual) / np.maximum(terms, 1e-300)
    if left.max() > 1e-9 and not isinstance(net.layer, Deep):
        return "wrong", f"{left.max():.2g} of the score is missing"
    return "works", f"{net.score.name} ({net.kind})"


def run(models: Iterator[tuple[str, Any, Any]], part: str = "") -> Counter[str]:
    """Judge models and print."""
    counts: Counter[str] = Counter()
    for name, model, X in models:
        if part in name:
            found, why = verdict(model, X, 1e-5 if name.startswith(SINGLE) else 1e-10)
            counts[found] += 1
            print(f"{found:10} {name}: {why[:200]}", flush=True)
    return counts


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if not word.startswith("--")]
    if "--others" not in sys.argv:
        found = run(sklearn_models(*words))
        print(f"scikit-learn: {dict(found)} of {sum(found.values())}")
    if "--sklearn" not in sys.argv:
        found = run(other_models(), *words)
        print(f"other libraries: {dict(found)} of {sum(found.values())}")
