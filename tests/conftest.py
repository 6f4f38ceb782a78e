import os

# Two workers with two threads each would wait for one another on two cores.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import shutil
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.preprocessing import StandardScaler

# The default suite draws the same examples everywhere; "random" draws anew: pytest --hypothesis-profile=random
hypothesis.settings.register_profile("default", derandomize=True, deadline=None)
hypothesis.settings.register_profile("random", derandomize=False, deadline=None, print_blob=True)
hypothesis.settings.load_profile("default")

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def shared(name: str) -> Path:
    """A folder of data beside the project, or of a stand-in that the tests make; without either the test is skipped."""
    if (SHARED / name).is_dir() and not os.environ.get("BACKLIGHT_STAND_INS"):
        return SHARED / name
    from tests.stand_ins import MAKERS, folder

    if name not in MAKERS:
        pytest.skip(f"the data set {name!r} is not beside the project")
    return folder(name)


def examples(count: int) -> int:
    """How many examples a property gets: BACKLIGHT_EXAMPLES where it is set, for a long search."""
    return int(os.environ.get("BACKLIGHT_EXAMPLES", count))


def same(got: object, want: object, digits: float = 1e-12) -> bool:
    """Equal to the rounding of another order of summation: of batches, of other kernels, of another processor."""
    got, want = np.asarray(got, dtype=float), np.asarray(want, dtype=float)
    if got.shape != want.shape:
        return False
    size = np.abs(want[np.isfinite(want)]).max(initial=0.0)
    return bool(np.allclose(got, want, rtol=digits, atol=digits * size, equal_nan=True))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def standardised(name: str) -> np.ndarray:
    load = {"wine": load_wine, "breast_cancer": load_breast_cancer, "digits": load_digits}[name]
    return StandardScaler().fit_transform(load().data[:900])


@pytest.fixture(scope="module")
def browser():
    if not shutil.which("chromium") or not shutil.which("chromedriver"):
        if os.environ.get("BACKLIGHT_NEEDS_BROWSER"):
            pytest.fail("chromium and chromedriver must be installed here")
        pytest.skip("chromium and chromedriver are not installed")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
                 "--disable-component-update", "--disable-sync", "--window-size=1400,1000"):  # fmt: skip
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    yield driver
    driver.quit()
