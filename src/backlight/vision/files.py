"""Trained networks from files: exported programs, and weights of a named architecture.

What is guaranteed: a ``.pt2`` file is read as a zip file of plain members, each once, and JSON; from these bytes alone
a list of calls is built of about 400 operators of torch that compute with tensors. Pickles are not opened, expressions
are parsed and not evaluated by Python or SymPy, ``torch.export.load`` is not called. A file can still ask for a long
computation or more memory than there is.
"""

from __future__ import annotations

from pathlib import Path

from torch import nn

from backlight.errors import ArgumentError, FileError, MissingFileError, UntrustedModelError, listed, reading
from backlight.programs.archive import Archive
from backlight.programs.program import build
from backlight.vision.architectures import architecture

__all__ = ["load_network"]


def load_network(path: Path, name: str | None = None) -> nn.Module:
    """A network in evaluation mode.

    Parameters
    ----------
    path : Path
        ``.pt2``: a program that ``torch.export.save`` wrote. ``.safetensors``: a state dict.
    name : str, optional
        The architecture of a state dict, see `architecture`.

    Raises
    ------
    UntrustedModelError
        A file that could run code.
    FileError, ArgumentError
    """
    if not path.is_file():
        raise MissingFileError(f"{path} is not there")
    if path.suffix in (".pt", ".pth", ".pkl", ".bin", ".ckpt"):
        raise UntrustedModelError(
            f"{path.name} may be a pickle, which can run any code when it is opened: save the weights with "
            "safetensors.torch.save_file(model.state_dict(), …), or the program with torch.export.save(…)"
        )
    if path.suffix == ".pt2":
        if name is not None:
            raise ArgumentError(f"{path.name} is a whole program: leave --architecture out")
        return _program(path)
    if path.suffix != ".safetensors":
        raise FileError(f"{path.name} is no network: give a .pt2 program or a .safetensors state dict")
    if name is None:
        raise ArgumentError(f"{path.name} holds weights alone: say --architecture, for instance squeezenet1_0")
    return _weights(path, name)


def _weights(path: Path, name: str) -> nn.Module:
    from safetensors.torch import load_file

    with reading(path, "a safetensors file"):
        state = load_file(path)
    network = architecture(name)
    expected = network.state_dict()
    missing, unknown = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    # a counter of training steps that takes no part
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]
    if missing or unknown:
        said = [f"{kind}: {listed(keys, 4)}" for kind, keys in (("missing", missing), ("unknown", unknown)) if keys]
        raise FileError(f"the weights in {path.name} are not those of {name!r} ({'; '.join(said)})")
    for key in expected:
        if key in state and state[key].shape != expected[key].shape:
            raise FileError(
                f"{key} in {path.name} has shape {tuple(state[key].shape)}, {name!r} has {tuple(expected[key].shape)}"
            )
    network.load_state_dict(state, strict=False)
    return network.eval()


def _program(path: Path) -> nn.Module:
    with reading(path, "an exported program"), Archive(path, path.stat().st_size, path.name) as archive:
        return build(archive, path.name)
