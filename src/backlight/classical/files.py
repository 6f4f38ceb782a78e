"""Fitted models in files: skops only, nothing that could run code from a file."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from backlight.errors import FileError, MissingFileError, UntrustedModelError, listed

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
    from skops import io

    if not zipfile.is_zipfile(path) or "schema.json" not in zipfile.ZipFile(path).namelist():
        raise FileError(f"{path} is not a model saved with skops: save it with skops.io.dump(model, 'model.skops')")
    try:
        unknown = set(io.get_untrusted_types(file=path))
    except (ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise FileError(f"{path} cannot be read as a skops model ({error})") from error
    refused = sorted(unknown - _VETTED - set(trust))
    if refused:
        flags = " ".join(f"--trust {name}" for name in refused)
        raise UntrustedModelError(
            f"{path} holds types that are not known to be safe: {listed(refused)}. If you trust its author, add {flags}"
        )
    return io.load(path, trusted=sorted(unknown))


def _is_pickle(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(2)
    compressed = path.suffix == ".joblib"
    return compressed or path.suffix in (".pkl", ".pickle", ".dill") or (start[:1] == b"\x80" and start[1:2] <= b"\x05")
