"""Damaged files of every format: each is read, or refused with one error of ours that is one line.

``BACKLIGHT_FUZZ=10`` runs ten times as many mutations; the seeds are fixed.
"""

import json
import os
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sklearn.cluster import KMeans
from sklearn.svm import OneClassSVM

import backlight
from backlight.classical.files import load_model
from backlight.cli.common import array_of, class_names
from backlight.errors import BacklightError, FileError, UntrustedModelError
from backlight.tables.files import read_files
from backlight.vision import load_network
from backlight.vision.architectures import architecture
from backlight.vision.pictures import preprocessing
from tests.test_table_files import FILES

pyarrow = pytest.importorskip("pyarrow")
Image = pytest.importorskip("PIL.Image")
skops = pytest.importorskip("skops.io")

ROUNDS = int(os.environ.get("BACKLIGHT_FUZZ", "1"))
EACH = 45
GREY = preprocessing("grey", 8)


def _picture(path):
    Image.fromarray(np.arange(400, dtype=np.uint8).reshape(20, 20) % 251).save(path)


def _explanation(path):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(4, 3))
    backlight.Explanation(
        values,
        values.sum(1),
        np.zeros(4),
        data=rng.normal(size=(4, 3)),
        feature_names=("a", "b", "c"),
        method="x",
        target="y",
    ).save(path)


def _prototypes(path):
    rng = np.random.default_rng(0)
    model = KMeans(2, n_init=1, random_state=0).fit(rng.normal(size=(30, 2)))
    backlight.prototype(model, 0, data=rng.normal(size=(30, 2))).save(path)


def _program(path):
    net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU()).eval()
    torch.export.save(torch.export.export(net, (torch.zeros(2, 2),)), path)


def _table(path):
    table = pyarrow.table({"a": [1.5, 2.0, 3.25], "b": ["x", "y", "z"], "c": [1, 2, 3]})
    if path.suffix == ".csv":
        from pyarrow.csv import write_csv as write
    elif path.suffix == ".parquet":
        from pyarrow.parquet import write_table as write
    else:
        from pyarrow.feather import write_feather as write
    write(table, path)


def _model(path):
    skops.dump(OneClassSVM(gamma=0.5).fit(np.random.default_rng(0).normal(size=(20, 2))), path)


# file name: (what writes it, what reads it)
FORMATS = {
    "model.skops": (_model, lambda path: backlight.neuralize(load_model(path))),
    "net.pt2": (_program, load_network),
    "weights.safetensors": (
        lambda path: save_file(architecture("digits").state_dict(), path), lambda path: load_network(path, "digits"),
    ),
    "rows.npy": (lambda path: np.save(path, np.arange(12.0).reshape(4, 3)), array_of),
    "a.png": (_picture, GREY.pixels),
    "a.jpg": (_picture, GREY.pixels),
    "names.json": (lambda path: path.write_text(json.dumps({str(k): [k, f"class {k}"] for k in range(12)})), class_names),
    "names.txt": (lambda path: path.write_text("one\ntwo\nthree\n"), class_names),
    "why.parquet": (_explanation, backlight.Explanation.load),
    "why.safetensors": (_explanation, backlight.Explanation.load),
    "found.safetensors": (_prototypes, backlight.Prototypes.load),
    "table.csv": (_table, lambda path: read_files([path])),
    "table.parquet": (_table, lambda path: read_files([path])),
    "table.arrow": (_table, lambda path: read_files([path])),
}  # fmt: skip
_HOSTILE = [
    b"\x00", b"\xff" * 8, b"[" * 5000, b'{"a":' * 3000, b"NaN", b"-1", b"9" * 30, b"null", b'"', b"\xed\xa0\x80", b"\n", b"}",
    b"PK\x03\x04", b"\x80\x04\x95", b"1e999", b"true",
]  # fmt: skip


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """Bytes with one to three faults: cut off, changed, left out, doubled, or spelled by somebody hostile."""
    out = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        if not out:
            break
        at, kind = int(rng.integers(len(out))), int(rng.integers(6))
        end = min(len(out), at + int(rng.integers(1, 40)))
        if kind == 0:
            del out[at:]
        elif kind == 1:
            out[at] ^= 1 << int(rng.integers(8))
        elif kind == 2:
            out[at:end] = rng.integers(0, 256, end - at, dtype=np.uint8).tobytes()
        elif kind == 3:
            del out[at:end]
        elif kind == 4:
            out[at:at] = out[at:end]
        else:
            out[at:end] = _HOSTILE[int(rng.integers(len(_HOSTILE)))]
    return bytes(out)


def mutated_members(data: bytes, rng: np.random.Generator, folder: Path) -> bytes:
    """A zip file with one member mutated and all checksums right, so that the fault reaches the parser behind it."""
    source, target = folder / "source.zip", folder / "target.zip"
    source.write_bytes(data)
    with zipfile.ZipFile(source) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    texts = [name for name in members if name.endswith("json")]
    likely = texts if texts and rng.random() < 0.7 else list(members)
    chosen = likely[int(rng.integers(len(likely)))]
    members[chosen] = (
        _member(members[chosen], rng) if chosen in texts and rng.random() < 0.7 else mutated(members[chosen], rng)
    )
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return target.read_bytes()


def _member(text: bytes, rng: np.random.Generator) -> bytes:
    """JSON with one value exchanged for another of any kind, or left out."""
    held = json.loads(text)
    places: list[tuple[object, object]] = []

    def walk(tree):
        for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            places.append((tree, key))
            if isinstance(value, dict | list):
                walk(value)

    walk(held)
    if places:
        tree, key = places[int(rng.integers(len(places)))]
        if rng.random() < 0.3:
            del tree[key]
        else:
            tree[key] = [None, -1, 2**70, 1.5, "", "x" * 300, [], {}, [[]], True, {"as_int": 2}, "torch.os.system"][
                int(rng.integers(12))
            ]
    return json.dumps(held).encode()


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, (write, _) in FORMATS.items():
            write(folder / name)
    return folder


@pytest.mark.parametrize("name", FORMATS)
def test_a_damaged_file_is_read_or_refused_with_one_line(name, written, tmp_path, monkeypatch):
    _, read = FORMATS[name]
    whole = (written / name).read_bytes()
    rng = np.random.default_rng(sorted(FORMATS).index(name))
    monkeypatch.chdir(tmp_path)
    path, refused = tmp_path / name, 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read(written / name)
        for round_ in range(EACH * ROUNDS):
            zipped = whole[:2] == b"PK" and round_ % 3
            path.write_bytes(mutated_members(whole, rng, tmp_path) if zipped else mutated(whole, rng))
            try:
                read(path)
            except BacklightError as error:
                refused += 1
                said = str(error)
                assert "\n" not in said, said
                assert len(said) < 1500, said
            assert {p.name for p in tmp_path.iterdir()} <= {name, "source.zip", "target.zip"}
    assert refused > EACH * ROUNDS // 10, "mutations reach nothing"


@pytest.mark.parametrize("kind", FILES)
def test_a_damaged_table_of_any_kind_is_read_or_refused_with_one_line(kind, tmp_path):
    name, write = FILES[kind]
    path = tmp_path / name
    rng = np.random.default_rng(sorted(FILES).index(kind))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write(path)
        whole = path.read_bytes()
        for round_ in range(3 * ROUNDS):
            zipped = whole[:2] == b"PK" and round_ % 4
            path.write_bytes(mutated_members(whole, rng, tmp_path) if zipped else mutated(whole, rng))
            try:
                read_files([path])
            except BacklightError as error:
                said = str(error)
                assert "\n" not in said, said
                assert len(said) < 1500, said


def test_a_table_of_nothing_and_one_for_no_memory_are_refused(tmp_path, monkeypatch):
    (tmp_path / "marked.csv").write_bytes(b"\xef\xbb\xbfa,b\n" + b"1,2\n" * 9 + b"3,\xc3(,4\n")
    with pytest.raises(FileError, match=r"marked\.csv begins as UTF-8, and holds bytes that are not"):
        read_files([tmp_path / "marked.csv"])
    (tmp_path / "blank.csv").write_text(",\n,\n,\n,\n")
    with pytest.raises(FileError, match=r"blank\.csv"):
        read_files([tmp_path / "blank.csv"])
    _table(tmp_path / "t.arrow")

    def too_much(*options):
        raise MemoryError("malloc of size 16106992346136640 failed")

    monkeypatch.setattr("backlight.tables.readers.arrow._table", too_much)
    with pytest.raises(FileError, match=r"t\.arrow cannot be read as Arrow: malloc of size"):
        read_files([tmp_path / "t.arrow"])


def test_nested_json_and_exploding_archives_are_one_sentence(tmp_path):
    (tmp_path / "deep.json").write_text("[" * 200_000)
    with pytest.raises(FileError, match="cannot be read as class names"):
        class_names(tmp_path / "deep.json")
    with zipfile.ZipFile(tmp_path / "bomb.skops", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("schema.json", b" " * (300 << 20))
    with pytest.raises(FileError, match="would unpack to"):
        load_model(tmp_path / "bomb.skops")
    with zipfile.ZipFile(tmp_path / "twice.skops", "w") as archive:
        archive.writestr("schema.json", b"{}")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("schema.json", b"{}")
    with pytest.raises(UntrustedModelError, match="twice"):
        load_model(tmp_path / "twice.skops")


def test_pickledarray_ofs_are_not_opened(tmp_path, monkeypatch):
    class Marker:
        def __reduce__(self):
            return (open, ("MARK", "w"))

    monkeypatch.chdir(tmp_path)
    np.save(tmp_path / "a.npy", np.array([Marker()], dtype=object), allow_pickle=True)
    with pytest.raises(BacklightError):
        array_of(tmp_path / "a.npy")
    assert not Path("MARK").exists()


def test_pictures_that_fill_the_memory_or_start_a_program_are_refused(tmp_path):
    Image.new("1", (12_000, 9_000)).save(tmp_path / "large.png")
    with pytest.raises(FileError, match="pixels"):
        GREY.pixels(tmp_path / "large.png")
    (tmp_path / "script.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n")
    with pytest.raises(FileError, match="cannot be read as a picture"):
        GREY.pixels(tmp_path / "script.png")


def test_a_panic_of_a_parser_is_an_error_of_ours_and_an_interruption_is_not(tmp_path):
    from backlight.errors import reading

    class Panic(BaseException):
        pass

    with pytest.raises(FileError, match="as a table: one two"), reading(tmp_path, "a table"):
        raise Panic("one\n  two")
    for passed in (KeyboardInterrupt, SystemExit, BacklightError):
        with pytest.raises(passed) as raised, reading(tmp_path, "a table"):
            raise passed
        assert raised.type is passed
