"""Fitted models in files: skops only, nothing that could run code from a file."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from backlight.errors import FileError, MissingFileError, UntrustedModelError, listed, reading

__all__ = ["load_model"]

# Types outside skops' own list that hold numbers and run nothing when they are built.
_VETTED = frozenset(
    {
        "backlight.classical.families.kernelclusters.KernelClusters",
        "numpy.dtype",
        "sklearn.calibration._CalibratedClassifier",
        "sklearn.calibration._SigmoidCalibration",
        "sklearn.cluster._bisect_k_means._BisectingTree",
        "sklearn.cluster._kmeans._kmeans_single_elkan",
        "sklearn.cluster._kmeans._kmeans_single_lloyd",
        "sklearn._loss.loss.HalfTweedieLoss",
        "sklearn._loss.loss.HalfTweedieLossIdentity",
        *(
            f"sklearn.gaussian_process.kernels.{name}"
            for name in (
                "ConstantKernel", "DotProduct", "Exponentiation", "Matern", "Product", "RBF", "RationalQuadratic",
                "Sum", "WhiteKernel",
            )
        ),
        "sklearn.metrics._dist_metrics.EuclideanDistance",
        "sklearn.metrics._dist_metrics.EuclideanDistance64",
        "sklearn.metrics._dist_metrics.ManhattanDistance",
        "sklearn.metrics._dist_metrics.ManhattanDistance64",
        "sklearn.metrics._scorer._PassthroughScorer",
        "sklearn.metrics.pairwise.laplacian_kernel",
        "sklearn.model_selection._split.KFold",
        "sklearn.model_selection._split.StratifiedKFold",
        "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
        "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
        "sklearn.neighbors._ball_tree.BallTree",
        "sklearn.neighbors._ball_tree.BallTree64",
        "sklearn.neighbors._kd_tree.KDTree",
        "sklearn.neighbors._kd_tree.KDTree64",
        "sklearn.utils._bunch.Bunch",
        "sklearn.utils._metadata_requests.MetadataRequest",
        "sklearn.utils._metadata_requests.MethodMetadataRequest",
    }
)  # fmt: skip


# Bytes that any model may unpack to, and how many times its own size a larger one may.
_UNPACKED, _RATIO = 1 << 28, 50


def load_model(path: Path, trust: Sequence[str] = ()) -> Any:
    """Load a model that was saved with skops.

    Parameters
    ----------
    path : Path
    trust : sequence of str
        Types that the user trusts beyond the vetted ones.

    Raises
    ------
    UntrustedModelError
        For a pickle or joblib file, and for types that are neither vetted nor trusted.
    """
    if not path.exists():
        raise MissingFileError(f"{path}: no such file")
    if path.is_dir():
        raise FileError(f"{path} is a directory: name a model file")
    if _is_pickle(path):
        reader = "joblib.load" if path.suffix == ".joblib" else "pickle.load"
        source = f"{reader}('{path.name}')" if reader == "joblib.load" else f"{reader}(open('{path.name}', 'rb'))"
        raise UntrustedModelError(
            f"{path} is a pickle, and loading a pickle runs whatever code it holds. If it is your own, convert it "
            f'where you trust it: python -c "import {reader.split(".")[0]}, skops.io; '
            f"skops.io.dump({source}, '{path.with_suffix('.skops').name}')\""
        )
    from skops import io as skops

    with reading(path, "a model saved with skops"):
        # one reading of the file: what is checked is what is loaded
        data = path.read_bytes()
        _require_plain(data, path)
        unknown = set(skops.get_untrusted_types(data=data))
    refused = sorted(unknown - _VETTED - set(trust))
    if refused:
        flags = " ".join(f"--trust {name}" for name in refused)
        raise UntrustedModelError(
            f"{path} holds types that are not known to be safe: {listed(refused)}. If you trust its author, add {flags}"
        )
    with reading(path, "a model saved with skops"):
        return skops.loads(data, trusted=sorted(unknown))


def _require_plain(data: bytes, path: Path) -> None:
    """Refuse an archive without a schema, with a member twice, or one that would fill the memory."""
    if not zipfile.is_zipfile(io.BytesIO(data)):
        raise FileError(f"{path} is not a model saved with skops: save it with skops.io.dump(model, 'model.skops')")
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = archive.namelist()
        size = sum(info.file_size for info in archive.infolist())
    if "schema.json" not in names:
        raise FileError(f"{path} is not a model saved with skops: save it with skops.io.dump(model, 'model.skops')")
    if len(set(names)) != len(names):
        raise UntrustedModelError(f"{path} holds a member twice: it is not opened")
    if size > max(_UNPACKED, _RATIO * len(data)):
        raise FileError(f"{path} would unpack to {size:,} bytes from {len(data):,}: it is not opened")


def _is_pickle(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(2)
    compressed = path.suffix == ".joblib"
    return compressed or path.suffix in (".pkl", ".pickle", ".dill") or (start[:1] == b"\x80" and start[1:2] <= b"\x05")
