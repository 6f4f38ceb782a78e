"""Exported programs from files: the same function as torch's own reader gives, and nothing in a file is run."""

import json
import os
import pickle
import struct
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

import backlight
from backlight.engine.capture import capture
from backlight.errors import BacklightError, DataError, FileError, UntrustedModelError
from backlight.programs import guards
from backlight.programs.operators import aten, symbolic
from backlight.vision import load_network
from tests.test_engine import seeded

pytestmark = pytest.mark.filterwarnings("ignore::backlight.errors.BacklightWarning")
ROWS = torch.export.Dim.DYNAMIC


class Small(nn.Module):
    """Shared weights, a buffer outside the state dict, lifted constants, several outputs, two inputs."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.again = nn.Linear(4, 4)
        self.again.weight = self.first.weight
        self.table = nn.Embedding(5, 4)
        self.register_buffer("shift", torch.ones(2, 4), persistent=False)
        self.ramp = torch.arange(3.0)

    def forward(self, x, ids):
        y = self.again(torch.relu(self.first(x))).reshape(x.shape[0], -1).transpose(0, 1)
        a, b = y.chunk(2, 0)
        best, place = torch.topk(a, 1)
        z = x[:, [0, 2]] + self.ramp[1] + torch.ones(x.shape[0], 2) + self.shift.sum()
        with torch.no_grad():
            scale = x.to(torch.float64).sum().to(torch.float32)
        out = torch.cat([z, self.table(ids).mean(1)], 1) * best.sum() * scale
        return {"out": out, "more": (b, torch.where(place > 0, 1.0, -float("inf")))}


class Sequence(nn.Module):
    def __init__(self):
        super().__init__()
        self.recurrent = nn.LSTM(3, 4, batch_first=True)
        self.layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)

    def forward(self, x):
        return self.layer(self.recurrent(x)[0])


class Pairs(nn.Module):
    def forward(self, x):
        return x.view(x.shape[0] // 2, 2, -1).sum(1)


def picture_net():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 2)
    )


KINDS = {
    "picture": (picture_net, (torch.randn(2, 1, 8, 8),), ({0: ROWS},), (torch.randn(5, 1, 8, 8),)),
    "small": (Small, (torch.randn(3, 4), torch.zeros(3, 2, dtype=torch.long)), ({0: ROWS}, {0: ROWS}),
              (torch.randn(7, 4), torch.ones(7, 2, dtype=torch.long))),
    "sequence": (Sequence, (torch.randn(4, 5, 3),), ({0: ROWS},), (torch.randn(6, 5, 3),)),
    "channels last": (lambda: picture_net().to(memory_format=torch.channels_last), (torch.randn(2, 1, 8, 8),), None,
                      (torch.randn(2, 1, 8, 8),)),
}  # fmt: skip


def export(module, inputs, shapes, path):
    with warnings.catch_warnings():  # torch's own news of recurrent layers
        warnings.simplefilter("ignore")
        torch.export.save(torch.export.export(module, inputs, dynamic_shapes=shapes), path)
    return path


def members(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write(path, content, *more):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in [*content.items(), *more]:
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_a_program_is_the_same_function_as_torchs_own_reader_gives(kind, tmp_path):
    make, inputs, shapes, others = KINDS[kind]
    path = export(seeded(make()).float().eval(), inputs, shapes, tmp_path / "net.pt2")
    own, theirs = load_network(path), torch.export.load(path).module()
    given, expected = torch.utils._pytree.tree_leaves(own(*others)), torch.utils._pytree.tree_leaves(theirs(*others))

    assert len(given) == len(expected)
    for a, b in zip(given, expected, strict=True):
        torch.testing.assert_close(a, b)  # the same operators in the same order
    assert {n: tuple(v.shape) for n, v in own.named_parameters(remove_duplicate=False)} == {
        n: tuple(v.shape) for n, v in theirs.named_parameters(remove_duplicate=False)
    }


def test_layers_keep_their_names_and_outputs_their_structure(tmp_path):
    path = export(seeded(picture_net()).float().eval(), *KINDS["picture"][1:3], tmp_path / "net.pt2")
    graph = capture(load_network(path), ((torch.randn(2, 1, 8, 8),), {}))
    assert graph.how == "exported"
    assert {"0", "1", "2", "3", "5"} <= {node.name for node in graph.nodes}
    make, inputs, shapes, others = KINDS["small"]
    small = load_network(export(seeded(make()).float().eval(), inputs, shapes, tmp_path / "small.pt2"))
    assert list(small(*others)) == list(small(others[0], ids=others[1])) == ["out", "more"]
    ex = backlight.explain(load_network(path), torch.randn(3, 1, 8, 8), 0, layers=["0"])
    assert ex.layers["0"].shape == (3, 4, 6, 6)


def test_sizes_that_a_program_was_not_exported_for_are_refused(tmp_path):
    path = export(seeded(picture_net()).float().eval(), *KINDS["picture"][1:3], tmp_path / "net.pt2")
    with pytest.raises(DataError, match="axis 3: it must be 8"):
        load_network(path)(torch.zeros(3, 1, 8, 9))
    make, inputs, shapes, others = KINDS["small"]
    small = load_network(export(seeded(make()).float().eval(), inputs, shapes, tmp_path / "small.pt2"))
    with pytest.raises(DataError, match="input 'ids' along axis 0"):
        small(others[0], others[1][:3])
    even = torch.export.Dim("half", min=2)
    pairs = load_network(export(Pairs(), (torch.randn(4, 3),), ({0: 2 * even},), tmp_path / "pairs.pt2"))
    assert pairs(torch.ones(6, 3)).shape == (3, 3)
    with pytest.raises(DataError, match="axis 0"):
        pairs(torch.ones(5, 3))
    few = torch.export.Dim("few", min=3, max=6)
    bounded = load_network(export(nn.Linear(2, 1), (torch.ones(4, 2),), ({0: few},), tmp_path / "few.pt2"))
    for rows in (2, 7):
        with pytest.raises(DataError, match="from 3 to 6"):
            bounded(torch.ones(rows, 2))


def test_a_program_that_was_exported_in_training_mode_is_refused(tmp_path):
    path = export(nn.Sequential(nn.Linear(2, 2), nn.Dropout()).train(), (torch.ones(3, 2),), None, tmp_path / "net.pt2")
    with pytest.raises(FileError, match=r"training mode .* model.eval\(\)"):
        load_network(path)


# -- crafted files ---------------------------------------------------------------------------------------------------


class Marker:
    """A pickle that leaves a file behind when it is opened."""

    def __reduce__(self):
        return (open, ("MARK", "w"))


PICKLES = {
    "binary": pickle.dumps(Marker()),
    "text": pickle.dumps(Marker(), protocol=0),
    "text with a byte behind": pickle.dumps(Marker(), protocol=0) + b"\nx",
}
RUN = "__import__('builtins').open('MARK','w')"


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1)).eval()
    return members(
        export(seeded(net).float(), (torch.zeros(2, 2),), ({0: ROWS},), tmp_path_factory.mktemp("good") / "net.pt2")
    )


def _edited(good, name, change):
    """The members with one JSON changed in place."""
    held = json.loads(good[name])
    change(held)
    return good | {name: json.dumps(held).encode()}


def _program(change):
    return lambda good: _edited(good, "net/models/model.json", change)


def _weights(change):
    return lambda good: _edited(good, "net/data/weights/model_weights_config.json", change)


def _add(**more):
    return lambda good: good | {f"net/{name.replace('__', '/')}": data for name, data in more.items()}


def _at(held, *path, value):
    for key in path[:-1]:
        held = held[key]
    held[path[-1]] = value


def _node(held):
    return held["graph_module"]["graph"]["nodes"][0]


def _first(held):
    return next(iter(held["config"].values()))


def _pickled_weight(good):
    held = json.loads(good["net/data/weights/model_weights_config.json"])
    _first(held)["use_pickle"] = True
    name = "net/data/weights/" + _first(held)["path_name"]
    return good | {"net/data/weights/model_weights_config.json": json.dumps(held).encode(), name: PICKLES["binary"]}


def _expression(text):
    expr = {"as_expr": {"expr_str": text, "hint": {"as_int": 2}}}
    return _program(lambda h: _at(h, "graph_module", "graph", "tensor_values", "input", "sizes", 0, value=expr))


DECOY = json.dumps({"a": {"path_name": "weights/model.pt", "use_pickle": False}}).encode()
# every one of these is refused; each holds a payload that some reader would run
REFUSED = {
    **{f"legacy weights, {kind}": lambda g, p=p: g | {"net/data/weights/model.pt": p} for kind, p in PICKLES.items()},
    **{f"opaque constant, {kind}": lambda g, p=p: g | {"net/data/constants/opaque_obj_0": p} for kind, p in PICKLES.items()},
    "custom object": lambda g: g | {"net/data/constants/custom_obj_0": PICKLES["binary"]},
    "extra file": lambda g: g | {"net/extra/more": PICKLES["binary"]},
    "library": lambda g: g | {"net/data/aotinductor/model/model.so": b"\x7fELF"},
    "decoy table of contents": lambda g: g | {
        "net/data/decoy_weights.json": DECOY, "net/data/weights/model.pt": PICKLES["binary"],
    },
    "second table of contents": lambda g: g | {"net/data/weights/other_weights_config.json": DECOY},
    "weight marked as a pickle": _pickled_weight,
    "a weight that is the samples": _weights(lambda h: _first(h).update(path_name="../sample_inputs/model.pt")),
    "code in the guards": _program(lambda h: h.update(guards_code=[RUN + " is not None"])),
    "code behind a guard": _program(lambda h: h.update(guards_code=[f"L['input'].size()[0] >= 1 or {RUN}"])),
    "a guard that calls": _program(lambda h: h.update(guards_code=["L['input'].size().__class__()[0] == 1"])),
    "a guard of a lambda": _program(lambda h: h.update(guards_code=[f"(lambda: {RUN})()"])),
    "code as the size of an input": _expression(RUN),
    "code inside a symbol": _expression(f"Symbol({RUN!r})"),
    "code beside a symbol": _expression(f"Symbol('s0', **{{{RUN!r}: 1}})"),
    "a function of Python": _program(lambda h: _node(h).update(target="torch.load")),
    "a function of the system": _program(lambda h: _node(h).update(target="torch.os.system")),
    "an attribute of an operator": _program(lambda h: _node(h).update(target="torch.ops.aten.linear.__call__")),
    "a reader of files": _program(lambda h: _node(h).update(target="torch.ops.aten.from_file.default")),
    "a loader of libraries": _program(lambda h: _node(h).update(target="torch.ops.load_library")),
    "a custom operator": _program(lambda h: _node(h).update(target="torch.ops.mine.linear.default")),
    "operator's call": _program(lambda h: _node(h).update(target="_operator.call")),
    "an attribute getter": _program(lambda h: _node(h).update(target="_operator.attrgetter")),
    "an object as an input": _program(lambda h: h["graph_module"]["signature"]["input_specs"].append(
        {"custom_obj": {"arg": {"name": "x", "class_fqn": "y"}, "custom_obj_name": "z"}})),
    "a name that is code": _program(lambda h: h["graph_module"]["signature"]["input_specs"][0]["parameter"].update(
        parameter_name=f'a"); {RUN}; ("')),
}  # fmt: skip
# these are harmless by what is never read, or never run
HARMLESS = {
    **{f"samples, {kind}": lambda g, p=p: g | {"net/data/sample_inputs/model.pt": p} for kind, p in PICKLES.items()},
    "code as an inner size": _program(lambda h: _at(
        h, "graph_module", "graph", "tensor_values", "linear", "sizes", 0, value={"as_expr": {"expr_str": RUN, "hint": None}})),
    "code as the name of a module": _program(lambda h: _node(h)["metadata"].update(nn_module_stack=f"a,{RUN},b;;")),
    "code as a stack trace": _program(lambda h: _node(h)["metadata"].update(stack_trace=RUN, torch_fn=RUN)),
    "code as an inner range": _program(lambda h: h["range_constraints"].update({RUN: {"min_val": 0, "max_val": None}})),
}  # fmt: skip
# a weight's bytes that are a pickle are numbers, as any bytes are
NUMBERS = {f"weight, {kind}": p for kind, p in PICKLES.items()}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("kind", REFUSED)
def test_a_crafted_program_is_refused_and_nothing_runs(kind, good, folder):
    path = write(folder / "bad.pt2", REFUSED[kind](good))
    with pytest.raises(UntrustedModelError) as raised:
        load_network(path)
    assert not Path("MARK").exists()
    assert "not opened" in str(raised.value) or "not read here" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("kind", HARMLESS)
def test_what_takes_no_part_in_a_program_is_never_read(kind, good, folder):
    x = torch.randn(3, 2)
    changed = load_network(write(folder / "odd.pt2", HARMLESS[kind](good)))
    torch.testing.assert_close(changed(x), load_network(write(folder / "good.pt2", good))(x))
    backlight.explain(changed, x, 0)
    assert not Path("MARK").exists()


@pytest.mark.parametrize("kind", NUMBERS)
def test_bytes_of_a_weight_are_numbers_whatever_they_spell(kind, good, folder):
    held = json.loads(good["net/data/weights/model_weights_config.json"])
    weight = "net/data/weights/" + _first(held)["path_name"]
    path = write(folder / "odd.pt2", good | {weight: NUMBERS[kind].ljust(16)})
    assert load_network(path)(torch.ones(1, 2)).shape == (1, 1)
    with pytest.raises(FileError, match="fewer numbers"):
        load_network(write(path, good | {weight: NUMBERS[kind][:15]}))
    assert not Path("MARK").exists()


def _twice(path, good):
    with pytest.warns(UserWarning, match="Duplicate name"):
        return write(path, good, ("net/models/model.json", b"{}"))


def _linked(path, good):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in good.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = (0o120777 if name.endswith("weight_0") else 0o600) << 16
            archive.writestr(info, data)
    return path


def _compressed(path, good):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in {**good, "net/data/weights/weight_9": bytes(10_000_000)}.items():
            archive.writestr(name, data)
    return path


def _other_local_name(path, good):
    write(path, good)
    data = bytearray(path.read_bytes())
    place = data.index(b"net/models/model.json")
    data[place : place + 3] = b"nut"
    path.write_bytes(data)
    return path


def _overlapping(path, good):
    """All entries of the directory point at the first member."""
    write(path, good)
    data = bytearray(path.read_bytes())
    at = struct.unpack("<I", data[-6:-2])[0]
    while data[at : at + 4] == b"PK\x01\x02":
        data[at + 42 : at + 46] = struct.pack("<I", 0)
        at += 46 + sum(struct.unpack("<HHH", data[at + 28 : at + 34]))
    path.write_bytes(data)
    return path


def _outside(path, good):
    return write(path, {**good, "../outside": b"x"})


ARCHIVES = {f.__name__.strip("_").replace("_", " "): f for f in (
    _twice, _linked, _compressed, _other_local_name, _overlapping, _outside,
)}  # fmt: skip


@pytest.mark.parametrize("kind", ARCHIVES)
def test_an_archive_that_two_readers_could_read_differently_is_refused(kind, good, folder):
    with pytest.raises((FileError, UntrustedModelError)):
        load_network(ARCHIVES[kind](folder / "bad.pt2", good))
    assert sorted(p.name for p in folder.iterdir()) == ["bad.pt2"]


@pytest.mark.parametrize(
    "change",
    [
        _weights(lambda h: _first(h)["tensor_meta"].update(strides=[{"as_int": 1 << 40}, {"as_int": 1}])),
        _weights(lambda h: _first(h)["tensor_meta"].update(storage_offset={"as_int": 3})),
        _weights(lambda h: _first(h)["tensor_meta"].update(storage_offset={"as_int": -1})),
        _weights(lambda h: _first(h)["tensor_meta"].update(sizes=[{"as_int": 1 << 50}, {"as_int": 1 << 50}])),
        _weights(lambda h: _first(h)["tensor_meta"].update(sizes=[{"as_int": 1 << 20}, {"as_int": 1}], strides=[{"as_int": 0}] * 2)),
        _weights(lambda h: _first(h)["tensor_meta"].update(dtype=99)),
        _weights(lambda h: _first(h)["tensor_meta"].update(layout=1)),
        _program(lambda h: h["schema_version"].update(major=9)),
        _program(lambda h: _node(h)["inputs"][0].update(arg={"as_graph": {}})),
        _program(lambda h: _node(h)["inputs"][0].update(arg={"as_tensor": {"name": "nobody"}})),
        _program(lambda h: h["graph_module"].pop("signature")),
        _program(lambda h: h.update(guards_code=["L['other'].size()[0] == 1"])),
        lambda g: g | {"net/models/model.json": b"[" * 100_000},
        lambda g: g | {"net/models/model.json": b'{"a": 1, "a": 2}'},
        lambda g: g | {"net/models/model.json": b"1" * 10_000},
        lambda g: g | {"net/byteorder": b"big"},
        lambda g: {name: data for name, data in g.items() if not name.endswith("model.json")},
    ],
)  # fmt: skip
def test_a_damaged_program_is_one_sentence(change, good, folder):
    with pytest.raises(FileError) as raised:
        load_network(write(folder / "bad.pt2", change(good)))
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 400


def test_the_command_line_ends_with_one_line_and_runs_nothing(good, folder):
    (folder / "x.csv").write_text("a,b\n1,2\n3,4\n")
    for kind, command in (
        ("code in the guards", ["derive", "bad.pt2"]),
        ("decoy table of contents", ["audit", "bad.pt2", "x.csv", "--out", "out.csv"]),
    ):
        write(folder / "bad.pt2", REFUSED[kind](good))
        done = subprocess.run([sys.executable, "-m", "backlight", *command], capture_output=True, text=True)
        assert (done.returncode, len(done.stderr.strip().splitlines())) == (2, 1), done.stderr
        assert not Path("MARK").exists()
        assert not Path("out.csv").exists()


def test_no_operator_of_a_program_takes_a_file_or_gives_memory_that_nobody_wrote():
    for name in (
        "from_file", "empty", "empty_like", "new_empty", "as_strided", "resize_", "set_", "save", "load", "rand", "randn",
        "bernoulli", "multinomial", "_sparse_coo_tensor_unsafe", "to_sparse", "quantize_per_tensor", "__class__", "warn",
    ):  # fmt: skip
        assert aten(f"torch.ops.aten.{name}.default") is None
    assert aten("torch.ops.aten.add.out") is None
    assert aten("torch.ops.aten.relu_.default") is torch.ops.aten.relu_.default
    assert aten("torch.ops.aten.linear.default\n") is None
    assert symbolic("_operator.attrgetter") is None
    assert symbolic("_operator.mul") is not None


def test_expressions_of_sizes_are_data():
    sizes = {"x": (4, 6)}
    for text, value in (
        ("L['x'].size()[0] == 4", True), ("(2*L['x'].size()[0]) % L['x'].size()[1] == 2", True), ("not L['x'].size()[0] < 3", True),
        ("-L['x'].size()[0] // 3 <= -1", True), ("1 < L['x'].size()[0] < 4", False), ("L['x'].size()[0] != 4 or 1 == 1", True),
    ):  # fmt: skip
        assert bool(guards.holds(guards.parsed(text), sizes)) is value
    for text in (RUN, "x", "L['x'].shape[0]", "L[0].size()[0]", "L['x'].size(1)", "1 if 1 else 2", "2 ** 9", "[1]", "'a'", "1; 2", "",
                 "(" * 41 + "1" + ")" * 41, "1 + " * 1000 + "1"):  # fmt: skip
        with pytest.raises(ValueError):
            guards.parsed(text)
    assert guards.linear("Add(Mul(Integer(2), Symbol('s0', integer=True)), Integer(3))") == (2, "s0", 3)
    for text in (
        "Mul(Symbol('a'), Symbol('b'))",
        "Add(Symbol('a'), Symbol('b'))",
        "Integer(3)",
        "Pow(Symbol('a'), Integer(2))",
        RUN,
    ):
        with pytest.raises(ValueError):
            guards.linear(text)


def test_pickles_are_never_opened_by_another_name(folder):
    for name in ("a.pt", "a.pth", "a.ckpt", "a.bin", "a.pkl"):
        (folder / name).write_bytes(PICKLES["binary"])
        with pytest.raises(UntrustedModelError, match="may be a pickle"):
            load_network(folder / name)
    (folder / "a.pt2").write_bytes(PICKLES["binary"])
    with pytest.raises(BacklightError):
        load_network(folder / "a.pt2")
    assert not os.path.exists("MARK")
