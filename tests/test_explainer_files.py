"""Explainers that travel: pickle, spawned processes, and one file without code."""

import json
import multiprocessing
import pickle
import subprocess
import sys

import joblib
import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, PowerTransformer, StandardScaler
from sklearn.svm import SVR, OneClassSVM
from torch import nn

import backlight
import backlight.text
from backlight.errors import (
    ArgumentError,
    ExistingFileError,
    FileError,
    MissingFileError,
    UnsupportedModel,
    UntrustedModelError,
)
from backlight.models import files
from tests.test_family import ALL, data, fitted, queries, scores_of

# A function of the user's own is code.
OWN = ("ocsvm own", "kernel ridge own")


def assert_same(a, b):
    for field in ("values", "output", "base_values", "residual"):
        assert np.array_equal(np.asarray(getattr(a, field)), np.asarray(getattr(b, field))), field
    for field in ("feature_names", "output_names", "target", "method", "dims"):
        assert getattr(a, field) == getattr(b, field)
    assert sorted(a.annotations) == sorted(b.annotations)
    assert np.array_equal(a.ledger.entering, b.ledger.entering)


@pytest.mark.parametrize("name", [name for name in ALL if name not in OWN])
def test_a_file_explains_to_the_last_bit(name, rng, tmp_path):
    X, y = data(name, rng)
    model, Q = fitted(name, X, y), queries(name, X, rng)[:20]
    for k, score in enumerate(scores_of(model)):
        explainer = backlight.Explainer(model, score=score)
        before = explainer(Q)
        explainer.save(tmp_path / f"{k}.explainer")
        assert_same(backlight.Explainer.load(tmp_path / f"{k}.explainer")(Q), before)
        if k == 0:
            assert_same(pickle.loads(pickle.dumps(explainer))(Q), before)


@pytest.mark.parametrize("name", OWN)
def test_a_function_of_the_users_is_refused(name, rng, tmp_path):
    X, y = data(name, rng)
    with pytest.raises(UnsupportedModel, match="<lambda> cannot be kept in a file without code"):
        backlight.Explainer(fitted(name, X, y)).save(tmp_path / "e")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("model", "options"),
    [
        (SVR(), {"reference": 0.3}),
        (OneClassSVM(nu=0.2), {"score": "inlierness", "reference": np.zeros((5, 4))}),
        (KernelDensity(), {"rules": "pool", "strict": False}),
        (GaussianMixture(2, random_state=0), {"feature_names": ["a", "b", "c", "d"]}),
    ],
)
def test_what_was_asked_travels_too(model, options, rng, tmp_path):
    X = rng.normal(size=(60, 4))
    explainer = backlight.Explainer(model.fit(X, X[:, 0]), **options)
    explainer.save(tmp_path / "e")
    again = backlight.Explainer.load(tmp_path / "e")

    assert_same(again(X), explainer(X))
    assert_same(pickle.loads(pickle.dumps(again))(X), explainer(X))
    assert repr(again) == repr(explainer)
    assert again.layers == explainer.layers


def test_targets_names_and_categories_travel(rng, tmp_path):
    pandas = pytest.importorskip("pandas")
    X = pandas.DataFrame({"size": rng.choice(["s", "m", "l"], 60), "kind": rng.choice(["a", "b"], 60)})
    y = np.where(X["size"] == "s", "yes", np.where(X["kind"] == "a", "no", "maybe"))
    model = make_pipeline(OneHotEncoder(), LogisticRegression()).fit(X, y)
    for target in ("yes", ["no", "yes"], "all", np.array([1.0, -1.0, 0.0]), y):
        explainer = backlight.Explainer(model, target)
        explainer.save(tmp_path / "e", force=True)
        assert_same(backlight.Explainer.load(tmp_path / "e")(X), explainer(X))


def _values(explainer, X):
    return explainer(X).values


def test_workers_explain_alike(rng):
    X = rng.normal(size=(40, 3))
    explainer = backlight.Explainer(OneClassSVM(nu=0.3).fit(X))
    expected = explainer(X).values
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert np.array_equal(pool.apply(_values, (explainer, X)), expected)
    found = joblib.Parallel(2, backend="threading")(joblib.delayed(_values)(explainer, X) for _ in range(4))
    assert all(np.array_equal(one, expected) for one in found)


def test_a_process_without_scikit_learn_explains_by_a_file(rng, tmp_path):
    X = rng.normal(size=(40, 3))
    explainer = backlight.Explainer(make_pipeline(StandardScaler(), KernelDensity()).fit(X))
    explainer.save(tmp_path / "e")
    np.save(tmp_path / "x.npy", X)
    code = (
        "import sys, numpy as np, backlight\n"
        "class Nothing:\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name.partition('.')[0] in ('sklearn', 'shap', 'pickle5'): raise ImportError(name)\n"
        "sys.meta_path.insert(0, Nothing())\n"
        "ex = backlight.Explainer.load(sys.argv[1])(np.load(sys.argv[2]))\n"
        "assert 'sklearn' not in sys.modules\n"
        "np.save(sys.argv[3], ex.values)\n"
    )
    places = [str(tmp_path / name) for name in ("e", "x.npy", "v.npy")]
    subprocess.run([sys.executable, "-c", code, *places], check=True)
    assert np.array_equal(np.load(tmp_path / "v.npy"), explainer(X).values)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    X = np.random.default_rng(0).normal(size=(12, 2))
    path = tmp_path_factory.mktemp("saved") / "e"
    backlight.Explainer(make_pipeline(StandardScaler(), OneClassSVM(nu=0.3)).fit(X)).save(path)
    return path.read_bytes()


def test_a_damaged_file_is_one_clear_error(saved, tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "e"
    for k in range(500):
        made = bytearray(saved)
        place = int(rng.integers(0, len(made)))
        how = k % 5
        if how == 0:
            made[place] ^= 1 << int(rng.integers(0, 8))
        elif how == 1:
            del made[place:]
        elif how == 2:
            made[place : place + 8] = rng.bytes(8)
        elif how == 3:
            del made[place : place + int(rng.integers(1, 9))]
        else:
            made[place:place] = rng.bytes(int(rng.integers(1, 9)))
        if bytes(made) == saved:
            continue
        path.write_bytes(made)
        with pytest.raises(FileError) as said:
            backlight.Explainer.load(path)
        assert "\n" not in str(said.value)


def test_every_character_of_what_a_file_says_of_itself_is_covered(saved):
    """Safetensors writes its metadata in any order, so that chance alone does not meet each of them."""
    from backlight.models.files import from_bytes

    begin = saved.index(b'"backlight":')
    for place in range(begin, saved.index(b"}", begin)):
        made = bytearray(saved)
        made[place] ^= 2
        with pytest.raises((FileError, ValueError, KeyError)):  # `Explainer.load` makes one error of them
            from_bytes(bytes(made))


def rewritten(saved, change):
    """The file with other JSON and a right digest, as an attacker would write it."""
    from safetensors.torch import load, save

    size = int.from_bytes(saved[:8], "little")
    metadata = json.loads(saved[8 : 8 + size])["__metadata__"]
    tensors = load(saved)
    body = json.dumps(change(json.loads(metadata["explainer"])))
    head = json.loads(metadata["backlight"])
    head["sha256"] = files._digest(head, body, tensors)
    return save(tensors, {"backlight": json.dumps(head), "explainer": body})


def replaced(node, old, new):
    if node == old:
        return new
    if isinstance(node, list):
        return [replaced(item, old, new) for item in node]
    return {key: replaced(item, old, new) for key, item in node.items()} if isinstance(node, dict) else node


@pytest.mark.parametrize(
    "change",
    [
        lambda body: replaced(body, "classical.layers.pools.SoftMinPool", "builtins.eval"),
        lambda body: replaced(body, "classical.layers.pools.SoftMinPool", "subprocess.Popen"),
        lambda body: {"is": "function", "of": "os.system"},
        lambda body: {"is": "object", "class": "classical.layers.pools.SoftMinPool", "of": [["a:__class__", 1]]},
        lambda body: {"is": "again", "of": 99},
        lambda body: [],
        lambda body: {"is": "dict", "of": []},
        lambda body: replaced(body, "t0", "nowhere"),
        lambda body: {"is": "dict", "of": [[{"is": "dict", "of": []}, 1]]},
    ],
)
def test_a_hostile_file_names_nothing_but_the_closed_list(change, saved, tmp_path):
    (tmp_path / "e").write_bytes(rewritten(saved, change))
    with pytest.raises(FileError):
        backlight.Explainer.load(tmp_path / "e")


def test_other_files_are_refused(saved, tmp_path):
    with pytest.raises(MissingFileError):
        backlight.Explainer.load(tmp_path / "nothing")
    (tmp_path / "e").write_bytes(b"")
    with pytest.raises(FileError):
        backlight.Explainer.load(tmp_path / "e")
    (tmp_path / "pickle").write_bytes(pickle.dumps([1]))
    with pytest.raises(FileError):
        backlight.Explainer.load(tmp_path / "pickle")


def test_a_module_and_a_librarys_own_step_are_refused(rng, tmp_path):
    with pytest.raises(ArgumentError, match="explain a row before saving"):
        backlight.Explainer(nn.Linear(2, 1).eval()).save(tmp_path / "e")
    X = rng.normal(size=(30, 2))
    with pytest.raises(UnsupportedModel, match="PowerTransformer cannot be kept"):
        backlight.Explainer(make_pipeline(PowerTransformer(), KernelDensity()).fit(X)).save(tmp_path / "e")
    backlight.Explainer(KernelDensity().fit(X)).save(tmp_path / "e")
    with pytest.raises(ExistingFileError):
        backlight.Explainer(KernelDensity().fit(X)).save(tmp_path / "e")


def test_a_network_from_a_file_says_what_it_lacks(rng, tmp_path):
    X = rng.normal(size=(30, 2))
    backlight.Explainer(KernelDensity().fit(X)).save(tmp_path / "e")
    network = backlight.Explainer.load(tmp_path / "e")._ready[0].network
    with pytest.raises(UnsupportedModel, match="was read from a file"):
        network.reference_score(X)
    assert torch.isfinite(network(X)).all()


# -- torch modules -----------------------------------------------------------------------------------------------------


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.norm = nn.Linear(5, 5), nn.Linear(5, 3), nn.LayerNorm(5)

    def forward(self, x):
        return self.b(self.norm(x + torch.tanh(self.a(x))))


class Branching(nn.Module):
    def forward(self, x):
        return x * 2 if x.sum() > 0 else x * x


def convolutional():
    norm = nn.BatchNorm2d(4)
    norm.running_mean.uniform_(-1, 1), norm.running_var.uniform_(0.5, 2)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), norm, nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3)
    )


MODULES = {
    "perceptron": (lambda: nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)), (4,)),
    "convolutional": (convolutional, (2, 8, 8)),
    "residual, double": (lambda: Residual().double(), (5,)),
    "attention": (lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (3, 8)),
}


@pytest.mark.parametrize("name", MODULES)
def test_a_torch_module_is_kept_as_a_program(name, tmp_path):
    torch.manual_seed(0)
    make, shape = MODULES[name]
    net = make().eval()
    X = torch.randn(6, *shape, dtype=next(net.parameters()).dtype)
    target = 1 if name != "attention" else torch.arange(24.0).reshape(3, 8)
    explainer = backlight.Explainer(net, target, rules="epsilon")
    explainer(X[:2])
    explainer.save(tmp_path / "e")
    written = (tmp_path / "e").read_bytes()
    assert b"sample_inputs" not in written  # where torch.export.save puts a pickle
    assert X[0].numpy().tobytes()[:16] not in written  # the user's rows stay at home

    loaded = backlight.Explainer.load(tmp_path / "e")
    there = loaded(X)
    assert_same(there, explainer(X))
    assert loaded.plan == explainer.plan
    assert loaded.layers == explainer.layers
    assert_same(pickle.loads(pickle.dumps(loaded))(X), there)
    loaded.save(tmp_path / "again")
    assert_same(backlight.Explainer.load(tmp_path / "again")(X), there)


class Speaking(nn.Module):
    """Tokens and their mask in, several outputs and a cache out, as models of language have them."""

    def __init__(self):
        super().__init__()
        self.words, self.places = nn.Embedding(20, 8), nn.Embedding(16, 8)
        self.block, self.head = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), nn.Linear(8, 3)

    def forward(self, input_ids, attention_mask=None):
        states = self.words(input_ids) + self.places(torch.arange(input_ids.shape[1]))
        states = self.block(states, src_key_padding_mask=attention_mask == 0)
        scores = self.head(states)
        return {"states": states, "logits": scores.mean(1), "spoken": scores, "cache": {"keys": [states]}}


@pytest.mark.parametrize(
    ("output", "target"),
    [("logits", 1), ("spoken", backlight.text.contrast(2, 1))],
    ids=["class", "contrast"],
)
def test_a_module_of_several_outputs_is_kept_by_the_one_that_is_explained(output, target, tmp_path):
    torch.manual_seed(0)
    net = Speaking().double().eval()
    ids = torch.randint(0, 20, (3, 6))
    mask = torch.ones_like(ids)
    mask[0, 4:] = 0
    explainer = backlight.Explainer(net, target, output=output)
    given = {"input_ids": ids, "attention_mask": mask}
    explainer(given)
    explainer.save(tmp_path / "e")
    loaded = backlight.Explainer.load(tmp_path / "e")
    assert_same(loaded(given), explainer(given))
    for length in (2, 9):  # any number of tokens, as the module itself takes
        other = {"input_ids": torch.randint(0, 20, (2, length)), "attention_mask": torch.ones(2, length).long()}
        assert_same(loaded(other), explainer(other))


def test_a_module_that_is_no_program_says_so(tmp_path):
    explainer = backlight.Explainer(Branching().eval(), lambda y: y[:, 0])
    explainer(np.ones((2, 2)))
    with pytest.raises(UnsupportedModel, match="send this explainer by pickle"):
        explainer.save(tmp_path / "e")


def test_a_program_in_an_explainer_is_read_with_the_same_care(tmp_path):
    explainer = backlight.Explainer(nn.Linear(3, 2).eval())
    explainer(np.ones((2, 3)))
    explainer.save(tmp_path / "e")
    kept = files.from_bytes((tmp_path / "e").read_bytes())
    whole = kept["model"]["program"].numpy().tobytes()
    for found, put in (
        (b"torch.ops.aten.linear.default", b"torch.ops.aten.system.default"),
        (b"PK\x01\x02", b"PK\x01\x00"),
    ):
        kept["model"]["program"] = torch.frombuffer(bytearray(whole.replace(found, put)), dtype=torch.uint8)
        path = tmp_path / "hostile"
        path.write_bytes(files.to_bytes(kept))
        with pytest.raises(FileError):
            backlight.Explainer.load(path)


def test_a_damaged_program_with_a_right_digest_is_one_clear_error(tmp_path):
    """Whatever bytes a program has: it says what is wrong, or explains as a network whose numbers are these."""
    torch.manual_seed(0)
    explainer = backlight.Explainer(convolutional().eval(), 0)
    X = torch.randn(2, 2, 8, 8)
    explainer(X)
    explainer.save(tmp_path / "e")
    kept = files.from_bytes((tmp_path / "e").read_bytes())
    whole = kept["model"]["program"].numpy().tobytes()
    rng = np.random.default_rng(0)
    said = []
    for k in range(200):
        made = bytearray(whole)
        place = int(rng.integers(0, len(made)))
        if k % 4 == 0:
            made[place] ^= 1 << int(rng.integers(0, 8))
        elif k % 4 == 1:
            made[place : place + 8] = rng.bytes(8)
        elif k % 4 == 2:
            del made[place : place + int(rng.integers(1, 9))]
        else:
            made[place:] = made[place // 2 : place]
        kept["model"]["program"] = torch.frombuffer(made, dtype=torch.uint8)
        (tmp_path / "hostile").write_bytes(files.to_bytes(kept))
        try:
            backlight.Explainer.load(tmp_path / "hostile")
        except (FileError, UntrustedModelError) as error:
            said.append(str(error))
    assert len(said) > 100
    assert not any("\n" in one for one in said)
