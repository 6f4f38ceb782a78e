import os

# Two workers with two threads each would wait for one another on two cores.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.preprocessing import StandardScaler

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def shared(name: str) -> Path:
    """A folder of data that is not part of the project; tests that need it are skipped without it."""
    if not (SHARED / name).is_dir():
        pytest.skip(f"the data set {name!r} is not beside the project")
    return SHARED / name


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def standardised(name: str) -> np.ndarray:
    load = {"wine": load_wine, "breast_cancer": load_breast_cancer, "digits": load_digits}[name]
    return StandardScaler().fit_transform(load().data[:900])
