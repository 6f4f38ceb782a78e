"""The members of an exported program's archive, each read once; nothing is unpacked and nothing unpickled.

The archive has one table of contents, the central directory of the zip file, and what is read by it is all that anybody
sees: no second reader takes the same file up again.
"""

from __future__ import annotations

import json
import re
import stat
import zipfile
from pathlib import Path
from typing import IO, Any

from backlight.errors import FileError, UntrustedModelError

__all__ = ["Archive"]

_HEAD = ("archive_format", "archive_version", "byteorder", ".data/version", ".data/serialization_id")
_PROGRAM = "models/model.json"
_WEIGHTS = "data/weights/model_weights_config.json"
_CONSTANTS = "data/constants/model_constants_config.json"
# A pickle of the inputs that the program was exported with. It takes no part and is never read.
_IGNORED = ("data/sample_inputs/model.pt",)
_TENSOR = re.compile(r"data/(weights/weight|constants/tensor)_\d{1,9}")
_SHORT = 1000


class Archive:
    """The known members of an archive in the PT2 format of ``torch.export.save``.

    Parameters
    ----------
    file : Path or file of bytes
    size : int
    name : str
        What it is called in errors.

    Raises
    ------
    UntrustedModelError
        A member that this format has no place for, or one twice.
    FileError
        No such archive.
    """

    def __init__(self, file: Path | IO[bytes], size: int, name: str) -> None:
        self._file = zipfile.ZipFile(file)
        self._name = name
        try:
            self._members = self._known(size)
            for member, value in (("archive_format", b"pt2"), ("archive_version", b"0"), ("byteorder", b"little")):
                if self._short(member) != value:
                    raise FileError(f"{name} is no exported program of a known format: {member} is not {value!r}")
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *raised: object) -> None:
        self._file.close()

    @property
    def program(self) -> dict[str, Any]:
        """The program as JSON."""
        return self._json(_PROGRAM)

    @property
    def weights(self) -> dict[str, Any]:
        """What ``data/weights`` holds, by the name of the parameter or buffer."""
        return self._entries(_WEIGHTS)

    @property
    def constants(self) -> dict[str, Any]:
        """What ``data/constants`` holds, by name."""
        return self._entries(_CONSTANTS)

    def tensor_bytes(self, folder: str, name: str) -> bytearray:
        """The plain numbers of one tensor."""
        member = f"data/{folder}/{name}"
        if _TENSOR.fullmatch(member) is None or member not in self._members:
            raise UntrustedModelError(f"{self._name} names {member[:80]!r} as a tensor's numbers: it is not opened")
        return bytearray(self._file.read(self._members[member]))

    def _known(self, size: int) -> dict[str, zipfile.ZipInfo]:
        root = self._file.infolist()[0].filename.partition("/")[0] if self._file.infolist() else ""
        found: dict[str, zipfile.ZipInfo] = {}
        for info in self._file.infolist():
            member = info.filename.removeprefix(f"{root}/")
            known = member in (*_HEAD, _PROGRAM, _WEIGHTS, _CONSTANTS, *_IGNORED) or _TENSOR.fullmatch(member)
            if not known or not info.filename.startswith(f"{root}/") or info.orig_filename != info.filename:
                raise UntrustedModelError(
                    f"{self._name} holds {info.filename[:80]!r}, which a program of plain tensors has not: it is not "
                    "opened (is it your own? give the model that torch.export.load returns to backlight in Python)"
                )
            if member in found:
                raise UntrustedModelError(f"{self._name} holds {member} twice: it is not opened")
            if stat.S_ISLNK(info.external_attr >> 16) or info.flag_bits & 0x1:
                raise UntrustedModelError(f"{self._name} holds {member} as a link or encrypted: it is not opened")
            if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
                raise FileError(f"{self._name} holds {member} compressed, and torch.export.save writes it plain")
            found[member] = info
        missing = next((name for name in (*_HEAD[:3], _PROGRAM, _WEIGHTS, _CONSTANTS) if name not in found), None)
        if missing is not None:
            raise FileError(
                f"{self._name} is not an exported program ({missing} is missing): torch.export.save writes one"
            )
        if sum(info.file_size for info in found.values()) > size:
            raise FileError(f"{self._name} claims more bytes than it has")
        return found

    def _short(self, name: str) -> bytes:
        info = self._members[name]
        return self._file.read(info) if info.file_size <= _SHORT else b""

    def _json(self, name: str) -> dict[str, Any]:
        held = json.loads(self._file.read(self._members[name]), object_pairs_hook=_unique)
        if not isinstance(held, dict):
            raise FileError(f"{self._name} holds no program in {name}")
        return held

    def _entries(self, name: str) -> dict[str, Any]:
        entries = self._json(name).get("config")
        if not isinstance(entries, dict):
            raise FileError(f"{self._name} holds no table of tensors in {name}")
        return entries


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    held = dict(pairs)
    if len(held) != len(pairs):
        raise ValueError("a name occurs twice in one JSON object")
    return held
