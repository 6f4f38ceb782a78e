"""Autoencoders as detectors: squared errors of a reconstruction, and distances to a centre of features."""

import importlib

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

import backlight
from backlight.classical import Autoencoder

pytestmark = pytest.mark.filterwarnings("ignore")  # of what the libraries warn at fit time

RNG = np.random.default_rng(0)
X = RNG.normal(size=(150, 2)) @ RNG.normal(size=(2, 6)) + 0.1 * RNG.normal(size=(150, 6))
ODD = X[:12].copy()
ODD[np.arange(12), np.arange(12) % 6] += 4


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 3), nn.Tanh(), nn.Linear(3, 6))


def test_a_torch_autoencoder_has_the_squared_error_of_each_column():
    module = net()
    ex = backlight.explain(Autoencoder(module, threshold=2.5), ODD)
    with torch.no_grad():
        error = ODD - module.double()(torch.tensor(ODD)).numpy()
    assert np.allclose(ex.values, error**2, rtol=1e-12)
    assert np.allclose(ex.output, (error**2).sum(1), rtol=1e-12)
    assert np.abs(ex.residual).max() <= 1e-12
    assert backlight.neuralize(Autoencoder(module, threshold=2.5)).threshold == 2.5


def test_behind_a_projection_errors_go_back_to_the_columns():
    front = PCA(4).fit(X)
    torch.manual_seed(1)
    module = nn.Sequential(nn.Linear(4, 2), nn.ReLU(), nn.Linear(2, 4))
    model = make_pipeline(front, Autoencoder(module))
    ex = backlight.explain(model, ODD)
    assert np.allclose(ex.output, model.decision_function(ODD), rtol=1e-10)
    assert np.abs(ex.residual).max() <= 1e-10
    with torch.no_grad():
        error = front.transform(ODD) - module.double()(torch.tensor(front.transform(ODD))).numpy()
    assert np.allclose(ex.values, (error @ front.components_) ** 2, rtol=1e-9, atol=1e-12)


def test_a_regressor_fitted_on_its_own_inputs():
    S = StandardScaler().fit(X)
    model = MLPRegressor(hidden_layer_sizes=(4, 2, 4), activation="tanh", max_iter=600, random_state=0).fit(
        S.transform(X), S.transform(X)
    )
    rows = S.transform(ODD)
    ex = backlight.explain(model, rows, score="outlierness")
    assert np.allclose(ex.values, (rows - model.predict(rows)) ** 2, rtol=1e-9)
    whole = backlight.explain(make_pipeline(S, model), ODD, score="outlierness")
    assert np.allclose(whole.values, ex.values, rtol=1e-8)
    assert backlight.neuralize(model).score.name == "predict"
    with pytest.raises(backlight.errors.ArgumentError, match="not a score"):
        backlight.neuralize(MLPRegressor(max_iter=5).fit(X, X[:, :2]), score="outlierness")


@pytest.mark.parametrize(
    "options", [{}, {"preprocessing": False}, {"hidden_neuron_list": [4, 2], "hidden_activation_name": "tanh"}], ids=str
)
def test_the_autoencoder_of_pyod(options):
    pyod = pytest.importorskip("pyod.models.auto_encoder")
    model = pyod.AutoEncoder(epoch_num=8, random_state=0, verbose=0, **options).fit(X)
    ex = backlight.explain(model, ODD)
    wanted = model.decision_function(ODD)  # in single precision
    assert np.allclose(ex.output, wanted, rtol=1e-5)
    assert (np.abs(ex.residual) <= 1e-12 * wanted.max()).all()
    assert (ex.values >= 0).all()
    assert np.mean(ex.values.argmax(1) == np.arange(12) % 6) >= 0.7
    assert backlight.neuralize(model).threshold == model.threshold_


@pytest.mark.parametrize(
    "options",
    [{}, {"preprocessing": False}, {"use_ae": True, "hidden_neurons": [5, 3]}, {"hidden_activation": "tanh"}],
    ids=str,
)
def test_deep_svdd_of_pyod(options):
    pyod = pytest.importorskip("pyod.models.deep_svdd")
    model = pyod.DeepSVDD(
        n_features=6, epochs=8, random_state=0, verbose=0, **{"hidden_neurons": [6, 4], **options}
    ).fit(X)
    wanted = model.decision_function(ODD)
    ex = backlight.explain(model, ODD)
    assert np.allclose(ex.output, wanted, rtol=1e-4, atol=1e-6)
    assert (np.abs(ex.residual) <= 1e-9 * np.abs(ex.values).sum(1) + 1e-12).all()
    start = model.scaler_.mean_[None] if model.preprocessing else np.zeros((1, 6))
    assert np.allclose(ex.base_values, model.decision_function(start), rtol=1e-4, atol=1e-6)
    usual = backlight.explain(model, ODD, reference=X[:30])
    assert np.allclose(usual.base_values, model.decision_function(X[:30].mean(0, keepdims=True)), rtol=1e-4, atol=1e-6)
    assert np.abs(usual.residual).max() <= 1e-9


def test_what_is_no_module_is_refused():
    with pytest.raises(backlight.errors.ArgumentError, match=r"takes a torch\.nn\.Module"):
        Autoencoder("net.pt")
    assert importlib.import_module("backlight.classical").Autoencoder is Autoencoder
