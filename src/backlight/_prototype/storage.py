"""Prototypes in files, and again from them: safetensors with JSON beside the arrays. Nothing runs code from a file."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from backlight import priors, spaces
from backlight._prototype.data import PrototypeData
from backlight._prototype.problem import Certificate
from backlight._prototype.setup import Setup
from backlight._prototype.subject import subject_of
from backlight.constraints import Constraint
from backlight.errors import ArgumentError, FileError, MissingFileError
from backlight.tables.files import atomic
from backlight.targets import Target
from backlight.targets.outputs import Along, Logit, LogProbability
from backlight.targets.units import Channel, Energy, Neuron

__all__ = ["load", "replayed", "save"]

_SCHEMA = 2
# Data of up to this many numbers travel in the file (16 MB).
_NUMBERS = 2_000_000
_PLAIN = ("status", "names", "decided", "feature_names", "optima", "notes", "strength", "kind", "provenance", "flags")
_PRIORS: dict[str, Any] = {cls.__name__: cls for cls in (
    priors.L1, priors.L2, priors.Gaussian, priors.Near, priors.Mixture, priors.KernelDensity, priors.RBM,
    priors.TotalVariation,
)}  # fmt: skip
_TERMS: dict[str, Any] = {cls.__name__: cls for cls in (Logit, LogProbability, Neuron, Channel, Energy, Along)}


def save(p: PrototypeData, path: Path, *, force: bool) -> None:
    """See `Prototypes.save`."""
    from safetensors.numpy import save_file

    if path.suffix != ".safetensors":
        raise FileError(f"cannot save prototypes as {path.name!r}: the name must end in .safetensors")
    setup, problems = p._live()
    arrays: dict[str, np.ndarray] = {"x": p.x, "f": p.f, "omega": p.omega, "value": p.value}
    arrays |= {name: value for name, value in (("z", p.z), ("center", p.center)) if value is not None}
    head: dict[str, Any] = {"schema": _SCHEMA} | {name: getattr(p, name) for name in _PLAIN}
    head["certificate"] = [[c.kind, c.value, c.bound] for c in p.certificate]
    head["options"] = {
        name: getattr(setup, name) for name in ("restarts", "optimizer", "exact", "seed", "steps", "count", "apart")
    }
    head["prior"] = _prior(setup.prior, arrays)
    head["space"] = _space(setup.space, arrays)
    head["target"] = _target(setup.target)
    head["bounds"] = _bounds(setup.bounds, arrays)
    head["constraints"] = [[c.kind, list(c.columns), list(c.numbers), c.low, c.high, c.word] for c in setup.constraints]
    if isinstance(setup.init, str):
        head["init"] = setup.init
    else:
        arrays["init"] = np.asarray(torch.as_tensor(setup.init))
        head["init"] = None
    data = problems[0].data
    if data is not None:
        head["data_sha256"] = _hash(data.numpy())
        if data.numel() <= _NUMBERS:
            arrays["data"] = data.reshape(len(data), *problems[0].shape).numpy()
    text = json.dumps(head, default=str)
    with atomic(path, force=force) as temporary:
        save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, temporary, {"backlight": text})


def load(path: Path) -> dict[str, Any]:
    """Read what `save` wrote: the fields of `Prototypes`."""
    from safetensors import safe_open

    if not path.is_file():
        raise MissingFileError(f"{path} is not a file: give the path of prototypes saved with Prototypes.save")
    with safe_open(path, "np") as file:
        text = (file.metadata() or {}).get("backlight")
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    head = {} if text is None else json.loads(text)
    if head.get("schema") != _SCHEMA or "certificate" not in head:
        raise FileError(f"{path} holds no prototypes that this version can read (schema {head.get('schema')!r})")
    provenance = head["provenance"] | {
        "saved": {k: head[k] for k in ("options", "prior", "space", "target", "bounds", "constraints", "init")}
        | {"data_sha256": head.get("data_sha256")},
        "arrays": {k: v for k, v in arrays.items() if k not in ("x", "z", "f", "omega", "value", "center")},
    }
    return {
        **{name: arrays.get(name) for name in ("x", "z", "f", "omega", "value", "center")},
        **{name: tuple(head[name]) for name in ("status", "names", "decided", "feature_names")},
        "certificate": tuple(Certificate(k, float(value), bool(bound)) for k, value, bound in head["certificate"]),
        "optima": tuple([(float(v), int(n)) for v, n in optima] for optima in head["optima"]),
        "notes": tuple(list(notes) for notes in head["notes"]),
        "flags": tuple(tuple(flags) for flags in head["flags"]),
        "strength": float(head["strength"]),
        "provenance": provenance,
        "kind": head["kind"],
    }


def replayed(p: PrototypeData, model: Any, options: dict[str, Any]) -> Setup:
    """What is to be solved again: see `Prototypes.replay`."""
    if p.setup is not None:
        return dataclasses.replace(p.setup, model=model, **options)
    saved, arrays = p.provenance["saved"], p.provenance["arrays"]
    subject = subject_of(model)
    if subject.fingerprint() != p.provenance["fingerprint"]:
        raise ArgumentError(
            f"this {subject.kind} is not the model that the prototypes were made with: its parameters have another "
            "fingerprint"
        )
    call: dict[str, Any] = dict(saved["options"]) | {"strength": p.strength}
    missing = []
    for name, build in (("prior", _built_prior), ("space", _built_space), ("target", _built_target)):
        if name in options:
            continue
        if saved[name] is not None and saved[name].get("kind") == "function":
            missing.append(f"{name}= ({saved[name]['said']})")
        else:
            call[name] = None if saved[name] is None else build(saved[name], arrays)
    if saved["data_sha256"] is not None and "data" not in options:
        if "data" not in arrays:
            missing.append("data= (too large for the file)")
        else:
            call["data"] = arrays["data"]
    if missing:
        raise ArgumentError(f"a file cannot hold everything: give {', '.join(missing)}")
    if "data" in options and saved["data_sha256"] is not None:
        given = subject.encode(options["data"]).flatten(1).double().numpy()
        if _hash(given) != saved["data_sha256"]:
            raise ArgumentError("these data are not the ones that the prototypes were made with")
    call["bounds"] = _built_bounds(saved["bounds"], arrays)
    call["constraints"] = tuple(
        Constraint(kind, tuple(columns), tuple(numbers), float(low), float(high), *word)
        for kind, columns, numbers, low, high, *word in saved["constraints"]
    )
    call["init"] = arrays["init"] if saved["init"] is None else saved["init"]
    return Setup(model, **(call | options))


def _hash(data: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(data, dtype=np.float64).tobytes()).hexdigest()


def _kept(name: str, values: dict[str, Any], arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Numbers in the head, arrays beside it."""
    arrays |= {f"{name}.{k}": np.asarray(v) for k, v in values.items() if isinstance(v, np.ndarray | torch.Tensor)}
    return {k: v for k, v in values.items() if not isinstance(v, np.ndarray | torch.Tensor)}


def _prior(prior: Any, arrays: dict[str, np.ndarray]) -> dict[str, Any] | None:
    if prior is None:
        return None
    if prior == "none":
        return {"kind": "none"}
    if type(prior).__name__ not in _PRIORS or _PRIORS[type(prior).__name__] is not type(prior):
        return {"kind": "function", "said": repr(prior)}
    numbers = _kept("prior", prior.parameters(), arrays)
    if isinstance(prior, priors.L2):
        numbers["on_code"] = prior.on_code
    return {"kind": type(prior).__name__, "numbers": numbers}


def _built_prior(saved: dict[str, Any], arrays: dict[str, np.ndarray]) -> Any:
    if saved["kind"] == "none":
        return "none"
    return _PRIORS[saved["kind"]](**saved["numbers"], **_of("prior", arrays))


def _of(name: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {key.removeprefix(f"{name}."): value for key, value in arrays.items() if key.startswith(f"{name}.")}


def _space(space: Any, arrays: dict[str, np.ndarray]) -> dict[str, Any] | None:
    if space is None:
        return None
    if isinstance(space, spaces.Input):
        return {"kind": "Input", "shape": space.shape}
    if isinstance(space, spaces.Affine):
        arrays["space.A"], arrays["space.c"] = space.A.numpy(), space.c.numpy()
        return {"kind": type(space).__name__, "shape": space.shape}
    return {"kind": "function", "said": repr(space)}


def _built_space(saved: dict[str, Any], arrays: dict[str, np.ndarray]) -> Any:
    shape = None if saved["shape"] is None else tuple(saved["shape"])
    if saved["kind"] == "Input":
        return spaces.Input(shape)
    return {"Affine": spaces.Affine, "PCA": spaces.PCA}[saved["kind"]](**_of("space", arrays), shape=shape)


def _target(target: Any) -> dict[str, Any] | None:
    if target is None:
        return None
    if isinstance(target, list) and any(isinstance(one, Target) or callable(one) for one in target):
        items = [_target(one) for one in target]
        made = next((one for one in items if one is not None and one["kind"] == "function"), None)
        return made or {"kind": "list", "items": items}
    if isinstance(target, Target):
        if target.transform is not None:
            return {"kind": "function", "said": "robust"}
        parts = []
        for weight, term in target.parts:
            if type(term).__name__ not in _TERMS:
                return {"kind": "function", "said": repr(term.name)}
            fields = {k: (v.tolist() if isinstance(v, torch.Tensor) else v) for k, v in vars(term).items()}
            parts.append([weight, type(term).__name__, {k: v for k, v in fields.items() if k != "name"}])
        return {"kind": "sum", "parts": parts}
    if callable(target) and not isinstance(target, torch.Tensor):
        return {"kind": "function", "said": getattr(target, "__name__", "function")}
    if isinstance(target, np.ndarray | torch.Tensor):
        array = np.asarray(target)
        return {"kind": "array", "value": array.tolist(), "float": bool(np.issubdtype(array.dtype, np.floating))}
    return {"kind": "plain", "value": target}


def _built_target(saved: dict[str, Any], arrays: dict[str, np.ndarray]) -> Any:
    if saved["kind"] == "list":
        return [_built_target(one, arrays) for one in saved["items"]]
    if saved["kind"] == "plain":
        return saved["value"]
    if saved["kind"] == "array":
        return np.array(saved["value"], dtype=float if saved["float"] else int)
    parts = []
    for weight, name, fields in saved["parts"]:
        if "vector" in fields:
            fields = fields | {"vector": torch.tensor(fields["vector"], dtype=torch.float64)}
        if name == "Neuron" and isinstance(fields["unit"], list):
            fields = fields | {"unit": tuple(fields["unit"])}
        parts.append((float(weight), _TERMS[name](**fields)))
    return Target(tuple(parts))


def _bounds(bounds: Any, arrays: dict[str, np.ndarray]) -> Any:
    if bounds is None or isinstance(bounds, str):
        return bounds
    if isinstance(bounds, dict):
        return {"columns": [[k, [None if v is None else float(v) for v in pair]] for k, pair in bounds.items()]}
    sides: list[Any] = []
    for name, side in zip(("low", "high"), bounds, strict=True):
        if side is not None and np.ndim(side):
            arrays[f"bounds.{name}"] = np.asarray(side, dtype=float)
            sides.append("array")
        else:
            sides.append(None if side is None else float(side))
    return {"sides": sides}


def _built_bounds(saved: Any, arrays: dict[str, np.ndarray]) -> Any:
    if saved is None or isinstance(saved, str):
        return saved
    if "columns" in saved:
        return {k: tuple(pair) for k, pair in saved["columns"]}
    found = [arrays[f"bounds.{n}"] if s == "array" else s for n, s in zip(("low", "high"), saved["sides"], strict=True)]
    return tuple(found)
