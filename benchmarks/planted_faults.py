"""How often the first reason names the planted fault, on tables whose own anomalies are left in.

    python benchmarks/planted_faults.py FOLDER --seeds 5 [--rows 1200]

FOLDER holds .npz files with an array X each (for instance ADBench's classical sets). Every method is fitted on the table
with its faults in it. Printed for each kind of fault: hit@1 a table, its mean over tables with a 95 % interval (bootstrap
over tables and seeds), and the worst table.
"""

import argparse
import os
import warnings
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import numpy as np
import shap
from sklearn.ensemble import IsolationForest
from sklearn.neighbors import KernelDensity, LocalOutlierFactor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import backlight
from backlight import metrics
from backlight._evaluate.planted import judge
from backlight.anomaly.fitting import fit_detector
from backlight.anomaly.prepared import prepare
from backlight.tables import as_frame

warnings.filterwarnings("ignore")


def ensemble(X, rows, _seed):
    frame = as_frame(X)
    data, _ = prepare(frame, dict.fromkeys(frame.names, "number"))
    fitted = fit_detector(data.coded, data, trim=True)
    return fitted.detector.contributions(data.coded[rows], fitted.own(len(X))[rows]).values


def z_score(X, rows, _seed):
    return np.abs(X - X.mean(0))[rows] / np.maximum(X.std(0), 1e-12)


def forest(X, rows, seed):
    model = IsolationForest(random_state=seed).fit(X)
    return -shap.TreeExplainer(model).shap_values(X[rows])


def explained(detector):
    def by(X, rows, _seed):
        return backlight.explain(make_pipeline(StandardScaler(), detector(*X.shape)).fit(X), X[rows]).values

    return by


METHODS = {
    "ensemble (default)": ensemble,
    "z-score": z_score,
    "isolation forest + TreeSHAP": forest,
    "LOF": explained(lambda n, d: LocalOutlierFactor(n_neighbors=20, novelty=True)),
    "kernel density of all rows": explained(lambda n, d: KernelDensity(bandwidth=1.4 * n ** (-1 / (d + 4)))),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=1200)
    options = parser.parse_args()
    files = sorted(options.folder.glob("*.npz"))
    hits = {(kind, method): np.zeros((len(files), options.seeds)) for kind in metrics.FAULTS for method in METHODS}
    for t, file in enumerate(files):
        whole = np.load(file)["X"].astype(float)
        for seed in range(options.seeds):
            X = whole[np.random.default_rng(seed).permutation(len(whole))[: options.rows]]
            X = X[:, X.std(0) > 1e-9]
            for kind in metrics.FAULTS:
                planted = metrics.plant(X, kind, seed=100 + seed)
                for method, explain in METHODS.items():
                    values = explain(planted.X, planted.rows, seed)
                    hits[kind, method][t, seed] = judge(values, planted.truth).first.mean()
    print("tables:", ", ".join(file.stem for file in files))
    rng = np.random.default_rng(0)
    for (kind, method), rates in hits.items():
        tables = rng.integers(0, len(files), (2000, len(files)))
        seeds = rng.integers(0, options.seeds, (2000, len(files)))
        low, high = np.quantile(rates[tables, seeds].mean(1), [0.025, 0.975])
        each = " ".join(f"{rate:.2f}" for rate in rates.mean(1))
        print(
            f"{kind:6s} {method:28s} {rates.mean():.3f} ({low:.3f} to {high:.3f})  worst {rates.mean(1).min():.2f}  {each}"
        )


if __name__ == "__main__":
    main()
