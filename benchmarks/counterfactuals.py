"""Counterfactuals beside DiCE and alibi: what turns a decision, by how much, and is it still a row of this table?

Wine, breast cancer, and a mixed table with fixed, whole-number and one-hot columns; a logistic regression and a forest.
`python benchmarks/counterfactuals.py --rivals PYTHON [--rows 6]` prints the tables of README.md. PYTHON is the
interpreter of another environment with `pip install dice-ml alibi click 'tensorflow-cpu<2.15'` and the same scikit-learn
(they need an older NumPy); without it backlight stands alone.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pandas as pd
from sklearn.datasets import load_breast_cancer, load_wine
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

warnings.simplefilter("ignore")
SEVERAL = 3
# standard deviations in some column between answers of priors.Near, which changes every column
APART = 0.5
JOBS = ("clerk", "farmer", "nurse", "welder")


class Table:
    """Columns of numbers, the classes, and what may change how."""

    def __init__(self, X, y, fixed=(), whole=(), group=()):
        order = np.random.default_rng(0).permutation(len(X))
        held = order[: len(X) // 4]
        self.train, self.y = X.iloc[order[len(X) // 4 :]], np.asarray(y)[order[len(X) // 4 :]]
        self.rows = X.iloc[held]
        self.fixed, self.whole, self.group = list(fixed), list(whole), list(group)
        self.names = list(X.columns)
        values = self.train.to_numpy()
        self.low, self.high = values.min(0), values.max(0)
        mad = np.median(np.abs(values - np.median(values, 0)), 0)
        self.mad = np.where(mad > 0, mad, values.std(0))
        self.weights = 1 / self.mad
        # another category counts one
        self.weights[[self.names.index(c) for c in self.group]] = 0.5

    def units(self):
        """Lists of columns that change together."""
        group = [self.names.index(c) for c in self.group]
        return [[i] for i in range(len(self.names)) if i not in group] + ([group] if group else [])


def mixed():
    r = np.random.default_rng(5)
    n = 800
    job = r.integers(0, 4, n)
    X = pd.DataFrame({
        "age": r.integers(18, 80, n), "years": r.integers(1, 17, n), "hours": r.integers(5, 90, n),
        "debt": r.gamma(2, 4, n).round(3), **{f"job={name}": (job == k) for k, name in enumerate(JOBS)},
    }).astype(float)  # fmt: skip
    score = 0.05 * X.age + 0.3 * X.years + 0.03 * X.hours - 0.2 * X.debt + np.array([0, -1, 0.5, 1])[job] - 4.5
    return Table(X, (r.random(n) < 1 / (1 + np.exp(-score))).astype(int), ["age"], ["age", "years", "hours"],
                 [f"job={name}" for name in JOBS])  # fmt: skip


def tables():
    wine, cancer = load_wine(as_frame=True), load_breast_cancer(as_frame=True)
    return {"wine": Table(wine.data, wine.target), "breast cancer": Table(cancer.data, cancer.target), "mixed": mixed()}


def models(table):
    linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)).fit(table.train.to_numpy(), table.y)
    forest = RandomForestClassifier(10, max_depth=4, random_state=0).fit(table.train.to_numpy(), table.y)
    return {"logistic": linear, "forest": forest}


def wanted(model, x):
    classes = list(model.classes_)
    return classes[(classes.index(model.predict(x[None])[0]) + 1) % len(classes)]


# -- the contenders: one row to some answers ---------------------------------------------------------------------------


def ours(table, model, kind):
    import backlight
    from backlight import constraints, priors

    rules = [constraints.decision()]
    rules += [constraints.fix(*map(table.names.index, table.fixed))] if table.fixed else []
    rules += [constraints.integer(*map(table.names.index, table.whole))] if table.whole else []
    rules += [constraints.onehot(*map(table.names.index, table.group))] if table.group else []
    if kind == "plausible":
        rules.append(constraints.plausible())
    data = table.train.to_numpy()

    def answer(x, count):
        prior = priors.L1(1.0, center=x, weights=table.weights) if kind != "near" else priors.Near(x, data=data)
        try:
            found = backlight.prototype(
                model, str(wanted(model, x)), prior=prior, data=data, strength=float("inf"), bounds="data",
                constraints=rules, count=count, apart=APART if kind == "near" and count > 1 else None,
            )  # fmt: skip
        except backlight.BacklightError:
            return [], ""
        return found.x, found.status[0]

    return answer


def dice(table, model, kind):
    import dice_ml

    numbers = [c for c in table.names if c not in table.group]

    def to_raw(X):
        frame = pd.DataFrame(X, columns=table.names)
        raw = frame[numbers].copy()
        for c in table.whole:
            raw[c] = raw[c].round().astype(int)
        if table.group:
            raw["job"] = [JOBS[k] for k in frame[table.group].to_numpy().argmax(1)]
        return raw

    def to_matrix(raw):
        frame = raw[numbers].astype(float).copy()
        for name in JOBS if table.group else ():
            frame[f"job={name}"] = (raw["job"].astype(str) == name).astype(float)
        return frame[table.names].to_numpy()

    class Raw:
        classes_ = model.classes_

        def predict_proba(self, raw):
            return model.predict_proba(to_matrix(raw))

        def predict(self, raw):
            return model.predict(to_matrix(raw))

    train = to_raw(table.train.to_numpy())
    frame = train.assign(_y=table.y)
    data = dice_ml.Data(dataframe=frame, continuous_features=list(numbers), outcome_name="_y")
    made = dice_ml.Dice(data, dice_ml.Model(model=Raw(), backend="sklearn"), method=kind)
    free = [c for c in train.columns if c not in table.fixed]

    def answer(x, count):
        options = {} if kind == "kdtree" else {"random_seed": 0} if kind == "random" else {}
        try:
            found = made.generate_counterfactuals(
                to_raw(x[None]), total_CFs=count, desired_class=int(wanted(model, x)), features_to_vary=free,
                verbose=False, **options,
            )  # fmt: skip
        except Exception as error:
            return [], type(error).__name__
        answers = found.cf_examples_list[0].final_cfs_df
        return ([] if answers is None else to_matrix(answers.drop(columns="_y"))), ""

    return answer


def alibi(table, model, kind):
    import tensorflow as tf

    tf.compat.v1.disable_v2_behavior()
    from alibi.explainers import CounterfactualProto

    data = table.train.to_numpy()
    at = {i: data[:, i].mean() for i in range(len(table.names))}
    group = {table.names.index(table.group[0]): len(table.group)} if table.group else None
    # as its examples do, in standardised columns; categories as they are
    shift = np.array([0.0 if table.names[i] in table.group else at[i] for i in at])
    scale = np.array([1.0 if table.names[i] in table.group else data[:, i].std() for i in at])
    Z = (data - shift) / scale
    fixed = [table.names.index(c) for c in table.fixed]
    low, high = Z.min(0)[None], Z.max(0)[None]

    def answer(x, count):
        z = (x - shift) / scale
        lo, hi = low.copy(), high.copy()
        for i in fixed:
            lo[0, i], hi[0, i] = z[i] - 1e-9, z[i] + 1e-9
        if group:
            # a category is one number to it, whose range it finds
            lo, hi = (np.append(side[:, : len(z) - len(table.group)], [[end]], 1) for side, end in ((lo, -1), (hi, 1)))
        tf.keras.backend.clear_session()
        explainer = CounterfactualProto(
            lambda rows: model.predict_proba(rows * scale + shift), (1, len(z)), use_kdtree=True, theta=10.0,
            feature_range=(lo.astype(np.float32), hi.astype(np.float32)), max_iterations=200, c_init=1.0, c_steps=4,
            **({"cat_vars": group, "ohe": True} if group else {}),
        )  # fmt: skip
        explainer.fit(Z, **({"d_type": "abdm", "disc_perc": [25, 50, 75]} if group else {}))
        try:
            found = explainer.explain(
                z[None].astype(np.float32), target_class=[list(model.classes_).index(wanted(model, x))]
            )
        except Exception as error:
            return [], type(error).__name__
        cf = getattr(found, "cf", None)
        return ([] if cf is None else np.asarray(cf["X"], dtype=float) * scale + shift), ""

    return answer


OWN = {"backlight L1": (ours, "l1"), "backlight L1, plausible": (ours, "plausible"), "backlight Near": (ours, "near")}
RIVALS = {
    "DiCE random": (dice, "random"), "DiCE genetic": (dice, "genetic"), "DiCE k-d tree": (dice, "kdtree"),
    "alibi prototypes": (alibi, "proto"),
}  # fmt: skip


def run(names, rows, only):
    """Answers and seconds of contenders, on every table and model."""
    found = []
    for place, table in tables().items():
        for kind, model in models(table).items():
            if only and kind not in only:
                continue
            queries = table.rows.to_numpy()[:rows]
            for name in names:
                make, way = (OWN | RIVALS)[name]
                # numerical gradients of a forest are zero, and plausible() is a program for each row of the data
                if kind == "forest" and (make is alibi or way == "plausible"):
                    continue
                print(place, kind, name, file=sys.stderr, flush=True)
                answer = make(table, model, way)
                answer(queries[0], 1)
                for q, x in enumerate(queries):
                    start = time.process_time()
                    one, status = answer(x, 1)
                    spent = time.process_time() - start
                    alone = make is alibi or way == "plausible" or (way == "near" and kind == "forest")
                    many = one if alone else answer(x, SEVERAL)[0]
                    found.append({
                        "table": place, "model": kind, "by": name, "row": q, "seconds": spent, "status": status,
                        "one": np.asarray(one, float).tolist(), "many": np.asarray(many, float).tolist(),
                    })  # fmt: skip
    return found


# -- the measures: the same for everybody ------------------------------------------------------------------------------


def distance(table, a, b):
    return float((np.abs(a - b) * table.weights).sum())


def changed(table, a, b):
    """How many columns differ, by more than a thousandth of a median deviation; a group counts once."""
    differs = np.abs(a - b) > 1e-3 * table.mad
    return sum(bool(differs[unit].any()) for unit in table.units())


def in_range(table, x, row):
    whole = [table.names.index(c) for c in [*table.whole, *table.group]]
    fixed = [table.names.index(c) for c in table.fixed]
    slack = 1e-6 * table.mad
    good = bool(
        ((x >= table.low - slack) & (x <= table.high + slack))[[i for i in range(len(x)) if i not in fixed]].all()
    )
    good &= bool(np.abs(x[whole] - np.round(x[whole])).max(initial=0) < 1e-6) and bool(
        (np.abs(x - row)[fixed] < 1e-6).all()
    )
    group = [table.names.index(c) for c in table.group]
    return good and (not group or abs(x[group].sum() - 1) < 1e-6)


def measured(found, rows):
    lines = []
    for place, table in tables().items():
        data = table.train.to_numpy()
        for kind, model in models(table).items():
            queries = table.rows.to_numpy()[:rows]
            for name in OWN | RIVALS:
                mine = [f for f in found if (f["table"], f["model"], f["by"]) == (place, kind, name)]
                if not mine:
                    continue
                sums = {
                    k: [] for k in ("valid", "L1", "changed", "data", "in range", "apart", "columns apart", "seconds")
                }
                for one in mine:
                    row = queries[one["row"]]
                    sums["seconds"].append(one["seconds"])
                    ok = bool(one["one"]) and model.predict([one["one"][0]])[0] == wanted(model, row)
                    sums["valid"].append(ok)
                    if not ok:
                        continue
                    x = np.array(one["one"][0])
                    sums["L1"].append(distance(table, x, row))
                    sums["changed"].append(changed(table, x, row))
                    sums["data"].append(min(distance(table, x, r) for r in data))
                    sums["in range"].append(in_range(table, x, row))
                    many = [np.array(x) for x in one["many"]]
                    pairs = [(a, b) for k, a in enumerate(many) for b in many[:k]]
                    if len(many) > 1:
                        sums["apart"].append(np.mean([distance(table, a, b) for a, b in pairs]))
                        sums["columns apart"].append(np.mean([changed(table, a, b) for a, b in pairs]))
                mean = {k: np.mean(v) if v else np.nan for k, v in sums.items()}
                proved = sum(one["status"] == "exact" for one in mine)
                said = f"{proved} of {len(mine)}" if name in OWN else ""
                cells = [place, kind, name, f"{sum(sums['valid'])} of {len(mine)}", f"{mean['L1']:.2f}", f"{mean['changed']:.1f}",
                         f"{mean['data']:.2f}", f"{sum(sums['in range'])} of {sum(sums['valid'])}", f"{mean['apart']:.2f}",
                         f"{mean['columns apart']:.1f}", f"{mean['seconds']:.2f}", said]  # fmt: skip
                lines.append("| " + " | ".join(cells).replace("nan", "–") + " |")
    return lines


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rivals", help="the Python of an environment with dice-ml and alibi")
    parser.add_argument("--rows", type=int, default=6)
    parser.add_argument("--only", nargs="*", choices=["logistic", "forest"], default=[])
    parser.add_argument("--answer", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.answer:
        arguments.answer.write_text(json.dumps(run(RIVALS, arguments.rows, arguments.only)))
        sys.exit(0)
    everything = run(OWN, arguments.rows, arguments.only)
    if arguments.rivals:
        with tempfile.TemporaryDirectory() as folder:
            there = Path(folder) / "answers.json"
            more = ["--only", *arguments.only] if arguments.only else []
            clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
            call = [arguments.rivals, __file__, "--rows", str(arguments.rows), "--answer", str(there), *more]
            # the user's own interpreter, named on the command line
            subprocess.run(call, check=True, env=clean)  # noqa: S603
            everything += json.loads(there.read_text())
    else:
        print("DiCE and alibi are left out: give --rivals PYTHON, of an environment with `pip install dice-ml alibi`.")
    print(
        "| table | model | by | valid | L1 ÷ MAD | changed | to the data | in range | apart | columns apart | CPU s | proved |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|---|")
    print("\n".join(measured(everything, arguments.rows)))
