"""Votes of members as steps of their scores, and votes of neighbours that count by their nearness."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_wine
from sklearn.ensemble import AdaBoostClassifier, RandomForestClassifier, VotingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.multioutput import ClassifierChain, MultiOutputClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC
from sklearn.tree import DecisionTreeClassifier

import backlight

WINE = load_wine()
X, Y = StandardScaler().fit_transform(WINE.data), WINE.target
Q = X[::2] + np.random.default_rng(0).normal(size=X[::2].shape)
BOTH = np.stack([Y > 0, Y > 1], 1).astype(int)
MIXED = [("a", LogisticRegression()), ("b", RandomForestClassifier(10, random_state=0)),
         ("c", make_pipeline(StandardScaler(), GaussianNB()))]  # fmt: skip
MODELS = [
    (AdaBoostClassifier(LogisticRegression(), n_estimators=4), Y, "decision_function"),
    (AdaBoostClassifier(GaussianNB(), n_estimators=4), Y > 0, "decision_function"),
    (AdaBoostClassifier(LinearSVC(random_state=0), n_estimators=3), Y, "decision_function"),
    (VotingClassifier(MIXED), WINE.target_names[Y], "votes"),
    (VotingClassifier([*MIXED, ("d", SVC())], weights=[1, 2, 0.5, 1.5]), Y > 0, "votes"),
    (ClassifierChain(DecisionTreeClassifier(max_depth=3, random_state=0)), BOTH, "probability"),
    (ClassifierChain(RandomForestClassifier(5, random_state=0), chain_method="predict_proba", order=[1, 0]), BOTH, "probability"),
    (MultiOutputClassifier(SVC()), BOTH, "decision_function"),
    (MultiOutputClassifier(LinearSVC(random_state=0)), np.stack([Y, Y > 1], 1).astype(int), "decision_function"),
    (KNeighborsClassifier(weights="distance"), Y, "contrast"),
    (KNeighborsClassifier(4, weights="distance", metric="manhattan"), Y > 0, "contrast"),
]  # fmt: skip


@pytest.mark.parametrize(("model", "y", "score"), MODELS, ids=lambda v: type(v).__name__ if hasattr(v, "fit") else "")
def test_scores_are_the_models_and_add_up(model, y, score, tmp_path):
    model.fit(X, y)
    kept = backlight.Explainer(model)
    kept.save(tmp_path / "explainer")
    assert np.allclose(
        backlight.Explainer.load(tmp_path / "explainer")(Q).values, kept(Q).values, rtol=1e-10, atol=1e-12
    )
    for rows in (X[::3], Q):
        net = backlight.neuralize(model)
        assert net.score.name == score
        wanted = net.reference_score(rows)
        assert np.abs(net(rows).numpy() - wanted).max() <= 1e-12 * np.abs(wanted).max()
        ex = backlight.explain(net, rows, "all" if net.score.outputs.names else None)
        parts = np.abs(ex.values).sum(1) + np.abs(ex.base_values)
        assert (np.abs(ex.residual) <= 1e-12 * parts).all()
    method = getattr(model, {"probability": "predict_proba"}.get(score, score), None)
    if score == "decision_function" and not isinstance(model, MultiOutputClassifier):
        assert np.allclose(net(Q).numpy(), method(Q), rtol=0, atol=1e-12)
    if score == "probability":
        assert np.allclose(net(Q).numpy(), method(Q), rtol=0, atol=1e-12)
    if score == "votes":
        named = model.classes_[net(Q).numpy().argmax(1)]
        clear = np.sort(net(Q).numpy(), 1)[:, -1] > np.sort(net(Q).numpy(), 1)[:, -2] + 1e-9
        assert (named == model.predict(Q))[clear].all()
        assert clear.mean() > 0.8


def test_a_vote_is_handed_to_the_columns_as_the_contrast_that_was_carried_over_zero():
    """A row that is no farther from the base than its vote has no relevance; else the secant of the contrast has it."""
    one = LogisticRegression().fit(X, Y)
    model = VotingClassifier([("a", LogisticRegression())]).fit(X, Y)
    ex = backlight.explain(model, Q, "all")
    f, base = one.decision_function(Q), one.intercept_
    usual, mine = base.argmax(), f.argmax(1)
    for i, a in enumerate(mine):
        want = np.zeros((X.shape[1], 3))
        if a != usual:
            share = Q[i] * (one.coef_[a] - one.coef_[usual])
            want[:, a] = share / share.sum()
            want[:, usual] = -want[:, a]
        assert np.allclose(ex.values[i], want, rtol=0, atol=1e-10)
        assert np.allclose(ex.base_values[i], np.eye(3)[usual], rtol=0, atol=1e-10)
    assert 0.2 < (mine != usual).mean() < 0.9


def test_equal_scores_are_a_vote_for_the_first_class():
    X = np.array([[0.0], [0.0], [1.0], [1.0]])
    tree = DecisionTreeClassifier().fit(X, [1, 2, 3, 1])  # both leaves are divided
    model = VotingClassifier([("a", DecisionTreeClassifier())]).fit(X, [1, 2, 3, 1])
    found = model.classes_[backlight.neuralize(model)(X).numpy().argmax(1)]
    assert (found == tree.predict(X)).all()


# -- neighbours that count by their nearness ---------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["euclidean", "manhattan"])
@pytest.mark.parametrize(("k", "classes"), [(1, 3), (4, 2), (5, 3), (9, 5)])
def test_the_harmonic_contrast_has_the_sign_of_the_weighted_vote(k, classes, metric):
    rng = np.random.default_rng(k)
    rows, labels = rng.normal(size=(80, 4)), rng.integers(0, classes, 80)
    model = KNeighborsClassifier(k, weights="distance", metric=metric).fit(rows, labels)
    query = np.concatenate([rng.normal(size=(3000, 4)), rows])  # its own rows are at distance zero
    scores = backlight.neuralize(model)(query).numpy()
    named = (scores > 0).astype(int) if classes == 2 else scores.argmax(1)
    assert (named == model.predict(query)).all()
    assert np.isfinite(scores).all()


def test_relevance_of_weighted_votes_is_that_of_the_definition():
    model = KNeighborsClassifier(5, weights="distance").fit(X, Y)
    ex = backlight.explain(model, Q, "all")
    d_all = np.sqrt(((Q[:, None] - X) ** 2).sum(2))
    near = model.kneighbors(Q, return_distance=False)
    for i in range(len(Q)):
        H, R = np.zeros(3), np.zeros((3, X.shape[1]))
        for c in range(3):
            mine = [j for j in near[i] if Y[j] == c] or [np.flatnonzero(c == Y)[d_all[i][c == Y].argmin()]]
            d = d_all[i][mine]
            H[c] = 1 / (1 / d).sum()
            R[c] = (H[c] ** 2 / d**2) @ ((Q[i] - X[mine]) ** 2 / d[:, None])
        for a in range(3):
            b = min((c for c in range(3) if c != a), key=lambda c: H[c])
            assert np.allclose(ex.values[i, :, a], R[b] - R[a], rtol=0, atol=1e-10)
            assert abs(ex.output[i, a] - (H[b] - H[a])) <= 1e-10


def test_equal_rows_of_two_classes_are_a_tie():
    rows = np.array([[0.0, 0.0], [0.0, 0.0], [3.0, 1.0], [5.0, 5.0]])
    model = KNeighborsClassifier(3, weights="distance").fit(rows, [0, 1, 1, 0])
    ex = backlight.explain(model, np.array([[0.0, 0.0], [1.0, 1.0]]), 0)
    assert ex.annotations["tie"].tolist() == [True, False]
    assert np.abs(ex.values[0]).max() == 0
    assert ex.output[0] == 0


def test_weighted_votes_on_features_of_a_module():
    module = torch.nn.Sequential(torch.nn.Linear(13, 8), torch.nn.ReLU(), torch.nn.Linear(8, 4)).double()
    with torch.no_grad():
        Z = module(torch.tensor(X)).numpy()
    head = KNeighborsClassifier(weights="distance").fit(Z, Y)
    net = backlight.neuralize(head, features=module, data=torch.tensor(X))
    ex = backlight.explain(net, torch.tensor(Q[:5]), "all")
    assert (np.abs(ex.residual) <= 1e-9 * (np.abs(ex.values).sum(1) + np.abs(ex.base_values) + 1e-12)).all()


def test_a_prediction_that_no_column_carries_is_refused_with_what_to_do():
    model = KNeighborsRegressor().fit(X, Y)
    with pytest.raises(
        backlight.errors.UnsupportedOption, match=r"score='predict' of this neighbourhood of 5.*ask for"
    ) as found:
        backlight.neuralize(model, score="predict")
    assert len(str(found.value)) <= 200


# -- shares of votes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["euclidean", "manhattan"])
@pytest.mark.parametrize("weights", ["uniform", "distance"])
@pytest.mark.parametrize(("k", "classes"), [(1, 2), (4, 2), (5, 3), (9, 4)])
def test_shares_of_votes_are_the_librarys_and_add_up(k, classes, weights, metric):
    rng = np.random.default_rng(10 * k + classes)
    rows, labels = rng.normal(size=(60, 4)), rng.integers(0, classes, 60)
    model = KNeighborsClassifier(k, weights=weights, metric=metric).fit(rows, labels)
    query = np.concatenate([rng.normal(size=(200, 4)), rows])
    net = backlight.neuralize(model, score="probability")
    assert np.allclose(net(query).numpy(), model.predict_proba(query), rtol=0, atol=1e-12)
    ex = backlight.explain(net, query, "all")
    assert np.abs(ex.residual).max() <= 1e-12
    assert np.abs(ex.values).sum(1).max() <= 1 + 1e-12
    assert np.allclose(ex.base_values[:200], 1 / classes, rtol=0, atol=1e-12)


def test_relevance_of_shares_is_that_of_the_definition():
    model = KNeighborsClassifier(5, weights="distance").fit(X, Y)
    rows = np.concatenate([Q, X[:1]])
    ex = backlight.explain(model, rows, "all", score="probability")
    d = np.sqrt(((rows[:, None] - X) ** 2).sum(2))
    near = model.kneighbors(rows, return_distance=False)
    proba = model.predict_proba(rows)
    for i, row in enumerate(rows):
        w = {j: 1 / d[i, j] for j in near[i]} if d[i].min() > 0 else {j: float(d[i, j] == 0) for j in near[i]}

        def share(some, i=i, row=row, w=w):
            """Of each column in the distances to some rows among the k nearest, or to the nearest of all of them."""
            inside = {j: w[j] for j in some if w.get(j, 0) > 0} or {some[d[i, some].argmin()]: 1.0}
            total = sum(inside.values())
            return sum(
                (v / total * (row - X[j]) ** 2 / d[i, j] ** 2 for j, v in inside.items() if d[i, j] > 0), np.zeros(13)
            )

        for c in range(3):
            own, others = np.flatnonzero(c == Y), np.flatnonzero(c != Y)
            want = (2 / 3) * proba[i, c] * share(others) - (1 / 3) * (1 - proba[i, c]) * share(own)
            assert np.allclose(ex.values[i, :, c], want, rtol=0, atol=1e-10)


def test_shares_of_two_classes_by_nearness_are_the_contrast_over_the_sum_of_harmonic_distances():
    model = KNeighborsClassifier(7, weights="distance").fit(X, Y > 0)
    contrast, shares = backlight.explain(model, Q, 1), backlight.explain(model, Q, 1, score="probability")
    p = model.predict_proba(Q)
    mixed = (p > 0).all(1)
    slope = ((p[:, 1] - 0.5) / contrast.output)[:, None]
    assert mixed.any()
    assert np.allclose(shares.values[mixed], (slope * contrast.values)[mixed], rtol=0, atol=1e-12)


def test_neighbours_are_members_like_any_other():
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.ensemble import BaggingClassifier, StackingClassifier

    members = [("a", KNeighborsClassifier()), ("b", LogisticRegression())]
    for model in (
        BaggingClassifier(KNeighborsClassifier(), 3, random_state=0), VotingClassifier(members, voting="soft"),
        StackingClassifier(members, cv=2), CalibratedClassifierCV(KNeighborsClassifier(), cv=2), VotingClassifier(members),
    ):  # fmt: skip
        model.fit(X, Y > 0)
        ex = backlight.explain(model, Q)
        assert np.abs(ex.residual).max() <= 1e-9
