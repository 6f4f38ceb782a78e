"""A prepared explainer as one file that holds no code: safetensors for the numbers, JSON for what they are.

The JSON names classes and functions of this package's own layers, rules and front ends, from a closed list, and their
plain fields; nothing else can be named, nothing is imported by name and nothing is run. A digest over all of it tells a
damaged file from a whole one. What has no such form, such as a function of the user's or a transformer that only
scikit-learn can compute, is refused when it is saved: such an explainer travels by pickle, with its model.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
import pkgutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from backlight._version import __version__
from backlight.classical.functions import NAMED
from backlight.errors import FileError, MissingFileError, UnsupportedModel, reading
from backlight.tables.files import atomic

__all__ = ["from_bytes", "read", "to_bytes", "write"]

SCHEMA = 1

# where the classes of a file come from; everything in these modules is arithmetic on tensors
_ROOMS = ("classical.layers", "classical.frontend", "rules")
_MODULES = (
    "classical.functions", "explanation.score_units", "classical.targets", "classical.families.kernels",
    "attribution.requested", "attribution.reference", "attribution.said", "models.protocol", "models.network",
)  # fmt: skip
_TORCH = (
    nn.Sequential, nn.ModuleList, nn.Linear, nn.ReLU, nn.Tanh, nn.Sigmoid, nn.Identity,
)  # fmt: skip
_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in (
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.bool,
)}  # fmt: skip
# what torch keeps for itself in a module
_TORCHS_OWN = frozenset(vars(nn.Module()))


@cache
def _classes() -> dict[str, type]:
    """The closed list, by name."""
    names = list(_MODULES)
    for room in _ROOMS:
        package = importlib.import_module(f"backlight.{room}")
        names += [f"{room}.{info.name}" for info in pkgutil.iter_modules(package.__path__)]
    found: dict[str, type] = {f"torch.{cls.__name__}": cls for cls in _TORCH}
    for name in names:
        for cls in vars(importlib.import_module(f"backlight.{name}")).values():
            if isinstance(cls, type) and cls.__module__ == f"backlight.{name}" and _is_kept(cls):
                found[f"{name}.{cls.__qualname__}"] = cls
    return found


def _is_kept(cls: type) -> bool:
    return issubclass(cls, nn.Module) or dataclasses.is_dataclass(cls) or hasattr(cls, "kept_instead")


@cache
def _functions() -> dict[str, Callable[..., Any]]:
    from backlight.classical.targets import CHOICES

    return {**NAMED, **CHOICES}


class _Writer:
    """Objects to JSON, their tensors put aside."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._seen: dict[int, dict[str, Any]] = {}
        self._alive: list[Any] = []
        self._names = {cls: name for name, cls in _classes().items()}
        self._calls = {id(function): name for name, function in _functions().items()}

    def put(self, value: Any) -> Any:
        """The JSON of a value."""
        if value is None or (isinstance(value, bool | int | float | str) and type(value) in (bool, int, float, str)):
            return value
        if isinstance(value, np.generic):
            return self.put(value.item())
        if isinstance(value, list):
            return [self.put(item) for item in value]
        plain = self._plain(value)
        if plain is not None:
            return plain
        if id(value) in self._seen:
            return self._seen[id(value)]
        self._alive.append(value)  # an id belongs to nobody else while its owner lives
        self._seen[id(value)] = {"is": "again", "of": len(self._seen)}
        return {**self._object(value)}

    def _plain(self, value: Any) -> dict[str, Any] | None:
        if isinstance(value, tuple | frozenset | set):
            kind = type(value).__name__ if type(value) in (tuple, frozenset, set) else "tuple"
            return {"is": kind, "of": [self.put(item) for item in value]}
        if isinstance(value, dict):
            return {"is": "dict", "of": [[self.put(key), self.put(item)] for key, item in value.items()]}
        if isinstance(value, torch.dtype):
            return {"is": "dtype", "of": str(value).removeprefix("torch.")}
        if callable(value) and id(value) in self._calls:
            return {"is": "function", "of": self._calls[id(value)]}
        return None

    def _object(self, value: Any) -> dict[str, Any]:
        if isinstance(value, Tensor):
            return {"is": "tensor", **self._tensor(value.detach())}
        if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
            order = "F" if value.flags.f_contiguous and not value.flags.c_contiguous else "C"
            return {"is": "array", "order": order, **self._tensor(torch.from_numpy(np.array(value, order="C")))}
        if isinstance(value, np.ndarray) and value.dtype.kind in "OU":
            return {"is": "texts", "kind": value.dtype.kind, "shape": list(value.shape), "of": self.put(value.tolist())}
        name = self._names.get(type(value))
        if name is None:
            what = getattr(value, "__qualname__", type(value).__name__)
            raise UnsupportedModel(
                f"{what} cannot be kept in a file without code: send this explainer by pickle, or save the model itself"
            )
        return {"is": "object", "class": name, "of": [[key, self.put(item)] for key, item in _fields(value).items()]}

    def _tensor(self, value: Tensor) -> dict[str, Any]:
        # a product's last digits depend on how a matrix lies in memory
        order = sorted(range(value.dim()), key=lambda axis: (-value.stride()[axis], axis))
        name = f"t{len(self.tensors)}"
        self.tensors[name] = value.cpu().permute(order).contiguous().clone()
        return {"name": name, "axes": order}


def _fields(value: Any) -> dict[str, Any]:
    """What an object knows; caches and what only the original library has are replaced by what it says itself."""
    instead = getattr(value, "kept_instead", {})
    if isinstance(value, nn.Module):
        own = {key: instead.get(key, item) for key, item in vars(value).items() if key not in _TORCHS_OWN}
        return {
            **{f"p:{key}": item for key, item in value._parameters.items()},
            **{f"b:{key}": item for key, item in value._buffers.items()},
            **{f"m:{key}": item for key, item in value._modules.items()},
            **{f"a:{key}": item for key, item in own.items()},
            "training": value.training,
        }
    if not dataclasses.is_dataclass(value):
        return {key: instead.get(key, item) for key, item in vars(value).items()}
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


class _Reader:
    """JSON to objects."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self._tensors = tensors
        self._made: list[Any] = []

    def get(self, value: Any) -> Any:
        """The value of its JSON."""
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, list):
            return [self.get(item) for item in value]
        kind, of = value["is"], value.get("of")
        if kind in ("tuple", "set", "frozenset"):
            return {"tuple": tuple, "set": set, "frozenset": frozenset}[kind](self.get(item) for item in of)
        if kind == "dict":
            return {self.get(key): self.get(item) for key, item in of}
        if kind == "dtype":
            return _DTYPES[of]
        if kind == "function":
            return _functions()[of]
        if kind == "again":
            return self._made[of]
        position = len(self._made)
        self._made.append(None)
        self._made[position] = self._object(value, position)
        return self._made[position]

    def _object(self, value: dict[str, Any], position: int) -> Any:
        kind = value["is"]
        if kind == "tensor":
            return self._tensor(value)
        if kind == "array":
            return np.array(self._tensor(value).numpy(), order=value["order"])
        if kind == "texts":
            return np.array(self.get(value["of"]), dtype=value["kind"]).reshape(value["shape"])
        cls = _classes()[value["class"]]
        made: Any = object.__new__(cls)
        self._made[position] = made
        if isinstance(made, nn.Module):
            nn.Module.__init__(made)
        fields = {str(key): self.get(item) for key, item in value["of"]}
        if isinstance(made, nn.Module):
            _fill(made, fields)
        elif not dataclasses.is_dataclass(made):
            vars(made).update({key: item for key, item in fields.items() if not key.startswith("__")})
        else:
            if set(fields) != {field.name for field in dataclasses.fields(made)}:
                raise FileError(f"the file has other fields of {value['class']} than this version")
            for key, item in fields.items():
                object.__setattr__(made, key, item)
        return made

    def _tensor(self, value: dict[str, Any]) -> Tensor:
        axes = value["axes"]
        back = [axes.index(axis) for axis in range(len(axes))]
        return self._tensors[value["name"]].permute(back)


def _fill(module: nn.Module, fields: dict[str, Any]) -> None:
    for key, item in fields.items():
        kind, _, name = key.partition(":")
        if kind == "p":
            module._parameters[name] = None if item is None else nn.Parameter(item, requires_grad=False)
        elif kind == "b":
            module._buffers[name] = item
        elif kind == "m":
            module._modules[name] = item
        elif kind == "a" and name not in _TORCHS_OWN and not name.startswith("__"):
            vars(module)[name] = item
        elif key == "training":
            module.training = bool(item)
        else:
            raise FileError(f"the file has a field {key!r}, which no layer has")


def _digest(head: dict[str, Any], text: str, tensors: dict[str, Tensor]) -> str:
    """Of everything that a file says: what it is and who wrote it, the text, and the tensors."""
    said = json.dumps({key: value for key, value in head.items() if key != "sha256"}, sort_keys=True)
    digest = hashlib.sha256((said + text).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return digest.hexdigest()


def to_bytes(value: dict[str, Any]) -> bytes:
    """Plain values and objects of the closed list as the contents of a file.

    Raises
    ------
    UnsupportedModel
        When something in it has no such form.
    """
    from safetensors.torch import save

    writer = _Writer()
    text = json.dumps(writer.put(value))
    head = {"schema": SCHEMA, "kind": "explainer", "backlight": __version__}
    head["sha256"] = _digest(head, text, writer.tensors)
    found: bytes = save(writer.tensors, {"backlight": json.dumps(head), "explainer": text})
    return found


def from_bytes(data: bytes, name: str = "the file") -> dict[str, Any]:
    """What `to_bytes` was given. No code is run.

    Raises
    ------
    FileError
    """
    from safetensors.torch import load

    size = int.from_bytes(data[:8], "little")
    metadata = json.loads(data[8 : 8 + size]).get("__metadata__", {})
    head = json.loads(metadata.get("backlight", "{}"))
    if head.get("kind") != "explainer" or head.get("schema") != SCHEMA:
        raise FileError(f"{name} holds no explainer that this version can read (schema {head.get('schema')!r})")
    tensors = load(data)
    text = metadata["explainer"]
    if head.get("sha256") != _digest(head, text, tensors):
        raise FileError(f"{name} is damaged: its contents are not what was written")
    found = _Reader(tensors).get(json.loads(text))
    if not isinstance(found, dict):
        raise FileError(f"{name} holds no explainer")
    return found


def write(data: bytes, path: Path, *, force: bool = False) -> None:
    """Write one file, whole or not at all."""
    with atomic(path, force=force) as place:
        place.write_bytes(data)


def read(path: Path, build: Callable[[dict[str, Any]], Any]) -> Any:
    """Read what `write` wrote, and build something of it; whatever is wrong is one error.

    Raises
    ------
    MissingFileError, FileError
    """
    if not path.is_file():
        raise MissingFileError(f"{path} is not a file: give the path of an explainer saved with Explainer.save")
    with reading(path, "a saved explainer"):
        return build(from_bytes(path.read_bytes(), str(path)))
