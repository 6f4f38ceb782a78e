"""Relevance of every kind of model against its formula, written out slowly with NumPy."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import norm
from sklearn import (  # fmt: skip
    cluster,
    covariance,
    ensemble,
    linear_model,
    mixture,
    naive_bayes,
    neighbors,
    neural_network,
    svm,
)
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis
from sklearn.kernel_approximation import Nystroem
from sklearn.metrics.pairwise import laplacian_kernel
from sklearn.model_selection import FixedThresholdClassifier, GridSearchCV, RandomizedSearchCV
from sklearn.multioutput import MultiOutputRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import backlight
from backlight.classical import KernelClusters
from backlight.rules import Hybrid, Stable, Zero
from tests.family import near, table

pytestmark = pytest.mark.fast

# -- Gaussians -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["full", "tied", "diag", "spherical"])
def test_mixtures_share_each_components_quadratic_form_by_its_responsibility(kind, rng):
    X, _ = table(rng)
    model = mixture.GaussianMixture(3, covariance_type=kind, random_state=0).fit(X)
    P = {
        "full": lambda: model.precisions_, "tied": lambda: np.stack([model.precisions_] * 3),
        "diag": lambda: np.stack([np.diag(p) for p in model.precisions_]),
        "spherical": lambda: np.stack([p * np.eye(5) for p in model.precisions_]),
    }[kind]()  # fmt: skip
    r = model.predict_proba(X)
    expected = np.zeros_like(X)
    for k in range(3):
        delta = X - model.means_[k]
        expected += r[:, k, None] * 0.5 * delta * (delta @ P[k])

    assert near(backlight.explain(model, X).values, expected)


def test_two_components_log_odds_are_the_difference_of_two_quadratic_forms(rng):
    X, _ = table(rng, classes=2)
    model = mixture.GaussianMixture(2, random_state=0).fit(X)
    a, b = ((X - mu) * ((X - mu) @ P) / 2 for mu, P in zip(model.means_, model.precisions_, strict=True))

    ex = backlight.explain(model, X, target=0, score="assignment")

    assert near(ex.values, b - a)
    assert np.ptp(ex.base_values) <= 1e-10  # the constants alone
    assert (np.sign(ex.output) == np.where(model.predict(X) == 0, 1, -1)).all()


def test_quadratic_discriminants_leave_only_constants_to_the_base(rng):
    X, y = table(rng, classes=2)
    ex = backlight.explain(QuadraticDiscriminantAnalysis().fit(X, y), X, target=1)
    assert np.ptp(ex.base_values) <= 1e-10


def test_the_three_decompositions_of_a_squared_mahalanobis_distance(rng):
    X, _ = table(rng)
    model = covariance.EmpiricalCovariance().fit(X)
    P, delta = model.precision_, X - model.location_
    values, vectors = np.linalg.eigh(P)

    cdc, pdc, rbc = (backlight.explain(model, X, rules=rule) for rule in ("cdc", "pdc", "rbc"))

    assert near(cdc.values, (delta @ (vectors * np.sqrt(values)) @ vectors.T) ** 2)
    assert near(pdc.values, delta * (delta @ P))
    assert (cdc.values >= 0).all()
    assert (pdc.values < 0).any()
    assert np.abs(cdc.residual).max() <= 1e-10
    assert np.abs(pdc.residual).max() <= 1e-10
    # RBC is what the distance falls by when one feature takes its best value, found here by solving for it
    for i in range(5):
        best = delta.copy()
        others = [j for j in range(5) if j != i]
        best[:, i] = -(delta[:, others] @ P[others, i]) / P[i, i]
        assert near(rbc.values[:, i], model.mahalanobis(X) - model.mahalanobis(best + model.location_))
    assert np.abs(rbc.residual).max() > 1e-3  # and does not add up, which is said


def test_a_category_is_reconstructed_as_a_whole(rng):
    """The indicators of one column form a block: its best value is that of all of them together."""
    X = np.c_[rng.integers(0, 3, 200), rng.normal(size=(200, 2))].astype(float)
    X[:, 1] += X[:, 0]
    front = ColumnTransformer([("c", OneHotEncoder(sparse_output=False, drop="first"), [0])], remainder="passthrough")
    model = make_pipeline(front, covariance.EmpiricalCovariance()).fit(X)
    Z, P = front.transform(X) - model[-1].location_, model[-1].precision_

    ex = backlight.explain(model, X, rules="rbc")

    free, others = P[:2, :2], Z[:, 2:] @ P[2:, :2]
    best = np.c_[-np.linalg.solve(free, others.T).T, Z[:, 2:]]
    assert near(ex.values[:, 0], ((Z @ P) * Z).sum(1) - ((best @ P) * best).sum(1))


def test_one_large_fault_ranks_first_by_reconstruction(rng):
    X, _ = table(rng)
    model = covariance.EmpiricalCovariance().fit(X)
    for i in range(5):
        odd = X.copy()
        odd[:, i] += 100
        assert (backlight.explain(model, odd, rules="rbc").values.argmax(1) == i).all()


def test_reconstruction_errors_of_principal_components(rng):
    X, _ = table(rng)
    model = PCA(2).fit(X)
    r = X - model.inverse_transform(model.transform(X))

    assert near(backlight.explain(model, X).values, r**2)
    assert near(backlight.explain(model, X, rules="pdc").values, (X - model.mean_) * r)
    leverage = 1 - (model.components_**2).sum(0)
    assert near(backlight.explain(model, X, rules="rbc").values, r**2 / leverage)


def test_decompositions_behind_a_scaler_are_those_of_the_columns(rng):
    X, _ = table(rng)
    plain = backlight.explain(covariance.EmpiricalCovariance().fit(X), X, rules="pdc")
    scaled = backlight.explain(make_pipeline(StandardScaler(), covariance.EmpiricalCovariance()).fit(X), X, rules="pdc")
    assert near(plain.values, scaled.values)


# -- naive Bayes -------------------------------------------------------------------------------------------------------


def test_naive_bayes_gives_each_feature_its_log_likelihood_ratio(rng):
    X, y = table(rng, classes=2)
    model = naive_bayes.GaussianNB().fit(X, y)
    a, b = (norm.logpdf(X, model.theta_[c], np.sqrt(model.var_[c])) for c in (0, 1))

    ex = backlight.explain(model, X, target=1)

    assert near(ex.values, b - a)
    assert near(ex.base_values, np.full(len(X), np.log(model.class_prior_[1] / model.class_prior_[0])))


def test_counts_and_absences_and_categories_are_evidence_of_their_own_feature(rng):
    X = rng.integers(0, 4, (80, 5)).astype(float)
    y = (X[:, 0] + X[:, 1] > 3).astype(int)

    multinomial = naive_bayes.MultinomialNB().fit(X, y)
    log_theta = multinomial.feature_log_prob_
    assert near(backlight.explain(multinomial, X, 1).values, X * (log_theta[1] - log_theta[0]))

    bernoulli = naive_bayes.BernoulliNB(binarize=1.5).fit(X, y)
    p = np.exp(bernoulli.feature_log_prob_)
    ratio = np.where(X > 1.5, np.log(p[1] / p[0]), np.log((1 - p[1]) / (1 - p[0])))
    assert near(backlight.explain(bernoulli, X, 1).values, ratio)

    categorical = naive_bayes.CategoricalNB().fit(X, y)
    picked = [t[:, X[:, i].astype(int)] for i, t in enumerate(categorical.feature_log_prob_)]
    assert near(backlight.explain(categorical, X, 1).values, np.stack([t[1] - t[0] for t in picked], 1))


# -- clusters ----------------------------------------------------------------------------------------------------------


def neon(X, centers, c, beta):
    """The published rule with its linear units and midpoints, one row at a time."""
    out = np.zeros_like(X)
    for n, x in enumerate(X):
        rivals = [k for k in range(len(centers)) if k != c]
        w = np.array([2 * (centers[c] - centers[k]) for k in rivals])
        m = np.array([(centers[c] + centers[k]) / 2 for k in rivals])
        h = ((x - m) * w).sum(1)
        f = h.min()
        p = np.exp(-beta * (h - f))
        p /= p.sum()
        R_k = p * f if f > 0 else p * h
        out[n] = (R_k[:, None] * (x - m) * w / h[:, None]).sum(0)
    return out


def test_k_means_follows_the_published_rule(rng):
    X, _ = table(rng)
    model = cluster.KMeans(4, n_init=2, random_state=0).fit(X)
    centers = model.cluster_centers_
    gaps = ((centers[:, None] - centers) ** 2).sum(2)
    beta = 1 / np.mean([np.delete(gaps[c], c).min() for c in range(4)])

    for c in range(4):
        assert near(backlight.explain(model, X, target=c).values, neon(X, centers, c, beta))
    ex = backlight.explain(model, X)
    assert near(
        np.asarray(ex.output), np.sort(model.transform(X) ** 2, 1)[:, 1] - np.sort(model.transform(X) ** 2, 1)[:, 0]
    )
    assert near(ex.values.sum(1), np.asarray(ex.output))


def test_a_cluster_that_a_row_is_not_in_is_not_amplified(rng):
    """Trap: h_k changes sign, and R_k/h_k amplified relevance thirtyfold, with the wrong sign on 99 % of rows."""
    X, _ = table(rng)
    model = cluster.KMeans(6, n_init=2, random_state=0).fit(X)
    ex = backlight.explain(model, X, target="all")
    d = (X[:, None] - model.cluster_centers_) ** 2  # (n, k, features)
    for c in range(6):
        largest = np.max([np.abs(d[:, k] - d[:, c]).sum(1) for k in range(6) if k != c], axis=0)
        assert (np.abs(ex.values[:, :, c]).sum(1) <= largest * (1 + 1e-12)).all()


@pytest.mark.parametrize(
    "model",
    [cluster.KMeans(5, n_init=1, random_state=0), cluster.MiniBatchKMeans(5, n_init=1, random_state=0),
     cluster.BisectingKMeans(6, random_state=0)],
)  # fmt: skip
def test_a_cluster_is_predicted_where_its_score_is_positive(model, rng):
    X, _ = table(rng)
    Q = rng.normal(size=(10_000, 5)) * 4
    net = backlight.neuralize(model.fit(X), score="assignment")
    scores = net(Q).numpy()
    clear = np.sort(scores, 1)[:, -1] > 1e-9
    assert (scores.argmax(1) == model.predict(Q))[clear].all()
    assert ((scores > 1e-9).sum(1) <= 1).all()


def test_soft_k_means_is_the_mixture_of_equal_round_gaussians(rng):
    X, _ = table(rng)
    model = cluster.KMeans(3, n_init=1, random_state=0).fit(X)
    same = mixture.GaussianMixture(3, covariance_type="spherical")
    same.weights_, same.means_ = np.full(3, 1 / 3), model.cluster_centers_
    same.precisions_cholesky_ = np.full(3, np.sqrt(X.size / model.inertia_))
    same.precisions_ = same.precisions_cholesky_**2
    same.covariances_, same.n_features_in_ = 1 / same.precisions_, 5

    soft = backlight.explain(model, X, "all", score="soft_assignment")
    assert near(soft.values, backlight.explain(same, X, "all", score="assignment").values)


def test_kernel_clusters_are_differences_of_soft_min_distances(rng):
    X, y = table(rng)
    model = KernelClusters(gamma=0.3).fit(X, y)
    Q = X + 0.1 * rng.normal(size=X.shape)
    d = [-logsumexp(-0.3 * ((Q[:, None] - X[y == c]) ** 2).sum(2), axis=1, b=1 / (y == c).sum()) for c in range(3)]
    net = backlight.neuralize(model)
    assert near(net(Q).numpy()[:, 0], np.minimum(d[1], d[2]) - d[0])
    assert (net(Q).numpy().argmax(1) == model.predict(Q)).all()


# -- neighbours --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 5, 9])
def test_an_odd_vote_of_two_classes_is_the_sign_of_an_order_statistic(k, rng):
    X, y = table(rng, classes=2)
    model = neighbors.KNeighborsClassifier(k).fit(X, y)
    Q = rng.normal(size=(10_000, 5)) * 3
    assert ((backlight.neuralize(model)(Q).numpy() > 0) == (model.predict(Q) == 1)).all()


@pytest.mark.parametrize("k", [2, 4, 7])
def test_other_votes_have_the_sign_of_the_contrast_but_for_ties(k, rng):
    X, y = table(rng, classes=4)
    model = neighbors.KNeighborsClassifier(k).fit(X, y)
    Q = rng.normal(size=(10_000, 5)) * 3
    votes = np.sort(model.predict_proba(Q), 1)
    clear = votes[:, -1] > votes[:, -2] + 1e-9
    scores = backlight.neuralize(model)(Q).numpy()
    assert clear.mean() > 0.5
    assert (scores.argmax(1) == model.predict(Q))[clear].all()
    assert (scores.max(1) > 0)[clear].all()


def test_distances_and_local_outlier_factors_share_each_neighbours_distance(rng):
    X, _ = table(rng)
    Q = X[:40] + rng.normal(size=(40, 5))
    knn = neighbors.NearestNeighbors(n_neighbors=4).fit(X)
    d, near_rows = knn.kneighbors(Q)
    delta = Q[:, None] - X[near_rows]
    each = delta**2 / d[:, :, None]
    assert near(backlight.explain(knn, Q).values, each[:, -1])
    assert near(backlight.explain(knn, Q, score="mean_distance").values, each.mean(1))

    city = neighbors.NearestNeighbors(n_neighbors=4, metric="manhattan").fit(X)
    apart = np.abs(Q[:, None] - X[city.kneighbors(Q, return_distance=False)])
    assert near(backlight.explain(city, Q, score="mean_distance").values, apart.mean(1))

    lof = neighbors.LocalOutlierFactor(novelty=True, n_neighbors=4).fit(X)
    # density and reach of the training rows, from the definition (Breunig et al. 2000)
    dist = np.sqrt(((X[:, None] - X) ** 2).sum(2))
    order = np.argsort(dist, 1)[:, 1:5]
    kdist = np.take_along_axis(dist, order, 1)[:, -1]
    density = 1 / np.maximum(kdist[order], np.take_along_axis(dist, order, 1)).mean(1)
    reach = np.maximum(kdist[near_rows], d)
    expected = (density[near_rows].mean(1)[:, None, None] * (reach / d**2)[:, :, None] * delta**2).mean(1)
    assert near(backlight.explain(lof, Q).values, expected, 1e-8)  # the library adds 1e-10 to each mean reach


def test_a_row_of_the_training_set_keeps_its_own_score_and_a_finite_explanation(rng):
    X, _ = table(rng)
    X[1] = X[0]
    for model in (neighbors.NearestNeighbors(n_neighbors=1), neighbors.LocalOutlierFactor(novelty=True, n_neighbors=3)):
        ex = backlight.explain(model.fit(X), X)
        assert np.isfinite(ex.values).all()
        assert (np.abs(ex.values) <= 10 * np.abs(np.asarray(ex.output)).max()).all()
    assert (backlight.explain(neighbors.NearestNeighbors(n_neighbors=1).fit(X), X).annotations["no_distance"]).all()


# -- signed expansions -------------------------------------------------------------------------------------------------


def sides(model, x):
    """Weights and displacements of both pools of a binary SVC for one row, the intercept as an anchor on the row."""
    beta, U, b = model.dual_coef_[0], model.support_vectors_, float(model.intercept_[0])
    gamma = model._gamma
    out = []
    for sign in (1, -1):
        keep = sign * beta > 0
        weight = np.append(sign * beta[keep], max(sign * b, 0))
        D = np.append(gamma * ((x - U[keep]) ** 2).sum(1), 0.0)
        delta = np.r_[x - U[keep], np.zeros((1, len(x)))]
        out.append((weight, D, delta))
    return out, gamma


@pytest.mark.parametrize("gamma", [0.02, 0.3, 3.0])
def test_a_kernel_classifier_is_a_log_ratio_of_two_pools(gamma, rng):
    X, y = table(rng, classes=2)
    model = svm.SVC(gamma=gamma).fit(X, y)
    Q = X[:20] + 0.3 * rng.normal(size=(20, 5))
    ex = backlight.explain(model, Q, target=1)
    tau = Stable().tau
    for n, x in enumerate(Q):
        pools, g = sides(model, x)
        logs, relevance, carried = [], [], []
        for weight, D, delta in pools:
            terms = weight * np.exp(-D)
            o = -np.log(terms.sum() / weight.sum())
            p = terms / terms.sum()
            w = p / (D + tau * (p * D).sum())
            # where nearly all weight is the intercept's, there is no distance to share
            passed = 0.0 if (p * D).sum() < 1e-6 * o else o / (w * D).sum()
            relevance.append(passed * (w[:, None] * g * delta**2).sum(0))
            carried.append(passed * (w * D).sum())
            logs.append(np.log(terms.sum()))
        L = (np.exp(logs[0]) - np.exp(logs[1])) / (logs[0] - logs[1])
        assert near(ex.values[n], L * (relevance[1] - relevance[0]))
        f = np.exp(logs[0]) - np.exp(logs[1])
        assert near(ex.base_values[n], f - L * (carried[1] - carried[0]))
        if all(passed > 0 for passed in carried):
            assert near(ex.base_values[n], L * (np.log(pools[0][0].sum()) - np.log(pools[1][0].sum())))


@pytest.mark.parametrize("model", [svm.SVC(gamma=0.3, C=5.0), svm.SVR(gamma=0.3)])
def test_an_expansion_does_not_jump_at_its_own_anchors(model, rng):
    """Support vectors are part of the function, which is explained as it is: beside one and at one it is the same."""
    X = rng.normal(size=(60, 3))
    model = model.fit(X, (X[:, 0] * X[:, 1] > 0).astype(float))
    at = model.support_vectors_[:10]
    beside = at + 1e-8 * rng.normal(size=at.shape)
    here, there = (backlight.explain(model, x).values for x in (at, beside))

    assert np.abs(here - there).max() <= 1e-5 * np.abs(here).max()


def test_the_published_rules_by_name(rng):
    X, y = table(rng, classes=2)
    model = svm.SVC(gamma=0.2).fit(X, y)
    Q = X[:15] + 0.3 * rng.normal(size=(15, 5))
    got = {name: backlight.explain(model, Q, target=1, rules=name) for name in ("midpoint", "gi", "hybrid")}
    U = model.support_vectors_
    pairwise = ((U[:, None] - U) ** 2).sum(2)[np.triu_indices(len(U), 1)]
    size = np.log10(0.2 * np.median(pairwise))
    eta = 0.0 if size < -0.5 else 1.0 if size > 1.5 else 0.4 * size + 0.4
    for n, x in enumerate(Q):
        pools, g = sides(model, x)
        probability, logs = [], []
        for weight, D, _ in pools:
            terms = weight * np.exp(-D)
            probability.append(terms / terms.sum())
            logs.append(np.log(terms.sum()))
        L = (np.exp(logs[0]) - np.exp(logs[1])) / (logs[0] - logs[1])
        square = [(p[:, None] * delta**2).sum(0) for p, (_, _, delta) in zip(probability, pools, strict=True)]
        mean = [((x - delta) * p[:, None])[:-1].sum(0) for p, (_, _, delta) in zip(probability, pools, strict=True)]
        midpoint, common = L * g * (square[1] - square[0]), 2 * L * g * x * (mean[0] - mean[1])
        assert near(got["midpoint"].values[n], midpoint)
        assert near(got["gi"].values[n], common)
        assert near(got["hybrid"].values[n], (1 - eta) * common + eta * midpoint)
    half = backlight.explain(model, Q, target=1, rules=Hybrid(eta=0.5))
    assert near(half.values, (got["midpoint"].values + got["gi"].values) / 2)
    # What they leave of the score is a large part of it, and is seen in the base.
    for ex in got.values():
        assert np.abs(ex.residual).max() <= 1e-12
        assert np.abs(ex.base_values).max() > 0.01


def test_several_classes_are_decided_by_their_pairs(rng):
    """Trap: dual_coef_[0] alone mixes the classes of several pairs."""
    X, y = table(rng, classes=4)
    model = svm.SVC(decision_function_shape="ovo").fit(X, y)
    Q = rng.normal(size=(10_000, 5)) * 2
    pairs = backlight.neuralize(model, score="pairs")
    assert near(pairs(Q).numpy(), model.decision_function(Q))
    ex = backlight.explain(model, Q[:300])
    by_hand = backlight.explain(model, Q[:300], target=model.predict(Q[:300]))
    assert near(ex.values, by_hand.values)
    one = backlight.explain(model, Q[:300], target=2)
    each = backlight.explain(pairs, Q[:300], "all")
    signs = {"0 against 2": -1, "1 against 2": -1, "2 against 3": 1}
    assert near(one.values, sum(s * each.output(name).values for name, s in signs.items()))


@pytest.mark.parametrize("model", [svm.SVR(C=3.0, gamma=0.1), svm.NuSVR(gamma=0.1)])
def test_a_regression_is_counted_from_its_intercept_or_from_a_level(model, rng):
    X, _ = table(rng)
    y = X[:, 0] + np.sin(X[:, 1])
    model.fit(X, y)
    Q = X[:30] + 0.2 * rng.normal(size=(30, 5))
    plain = backlight.explain(model, Q)
    # The dual coefficients of a support vector regression sum to zero: nothing is left but the intercept.
    assert near(plain.base_values, np.full(30, model.intercept_[0]), 1e-8)
    level = backlight.explain(model, Q, reference=2.5)
    assert near(np.asarray(level.output), model.predict(Q))
    assert np.abs(level.residual).max() <= 1e-10
    assert not near(level.values, plain.values)


def test_polynomial_kernels_are_gradient_times_input_by_degree(rng):
    X, y = table(rng, classes=2)
    model = svm.SVC(kernel="poly", degree=3, coef0=0.0).fit(X, y)
    net = backlight.neuralize(model)
    x = torch.tensor(X, requires_grad=True)
    net(x).sum().backward()
    assert near(backlight.explain(model, X, 1).values, (x.grad * x).detach().numpy() / 3)


def test_a_nystroem_map_and_a_linear_model_are_one_expansion(rng):
    X, y = table(rng, classes=2)
    pipe = make_pipeline(Nystroem(n_components=25, gamma=0.2, random_state=0), linear_model.LogisticRegression()).fit(
        X, y
    )
    beta = (pipe[1].coef_ @ pipe[0].normalization_)[0]
    f = np.exp(-0.2 * ((X[:, None] - pipe[0].components_) ** 2).sum(2)) @ beta + pipe[1].intercept_[0]
    assert near(np.asarray(backlight.explain(pipe, X, 1, score="decision_function").output), f)


def test_a_sigmoid_kernel_is_a_perceptron(rng):
    """Its hidden units are the support vectors; LRP-0 by hand."""
    X, _ = table(rng)
    model = svm.OneClassSVM(kernel="sigmoid", gamma=0.05, coef0=0.1, nu=0.3).fit(X)
    ex = backlight.explain(model, X, rules=Zero(), score="decision_function")
    assert near(np.asarray(ex.output), model.decision_function(X))
    U, beta = model.support_vectors_, model.dual_coef_[0]
    z = 0.05 * X @ U.T + 0.1
    assert near(ex.values, X * (0.05 * (np.tanh(z) * beta / z) @ U), 1e-8)


def test_hidden_units_in_members_are_explained_as_they_are_alone(rng):
    X, _ = table(rng)
    bag = ensemble.BaggingRegressor(svm.SVR(kernel="sigmoid"), n_estimators=2, random_state=0).fit(X, X[:, 0])
    members = [backlight.explain(member, X) for member in bag.estimators_]
    ex = backlight.explain(bag, X)
    assert near(np.asarray(ex.output), bag.predict(X))
    assert near(ex.values, np.mean([member.values for member in members], 0), 1e-8)


def test_nearest_centroids_and_centres_are_told_as_clusters_are(rng):
    X, y = table(rng)
    model = neighbors.NearestCentroid().fit(X, y)
    alike = cluster.KMeans(3, init=model.centroids_, n_init=1, max_iter=1).fit(X)
    alike.cluster_centers_ = model.centroids_
    assert near(backlight.explain(model, X, "all").values, backlight.explain(alike, X, "all").values)
    city = neighbors.NearestCentroid(metric="manhattan").fit(X, y)
    ex = backlight.explain(city, X, "all")
    assert (np.asarray(ex.output).argmax(1) == city.predict(X)).all()


def test_a_regression_an_output(rng):
    X, _ = table(rng)
    Y = np.c_[X[:, 0] ** 2, X @ np.arange(5)]
    ex = backlight.explain(MultiOutputRegressor(svm.SVR()).fit(X, Y), X, "all")
    for k in range(2):
        assert near(ex.values[:, :, k], backlight.explain(svm.SVR().fit(X, Y[:, k]), X).values)


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")  # of what shap imports
def test_a_search_is_its_best_model(rng):
    class Another(GridSearchCV):
        """As other libraries have."""

    X, y = table(rng)
    own = Another(svm.SVC(), {"C": [1.0]}, cv=2).fit(X, y)
    assert near(backlight.explain(own, X).values, backlight.explain(own.best_estimator_, X).values, 0)
    search = RandomizedSearchCV(svm.SVC(), {"C": [0.1, 1.0, 10.0]}, n_iter=2, cv=2, random_state=0).fit(X, y)
    assert near(backlight.explain(search, X).values, backlight.explain(search.best_estimator_, X).values, 0)
    forest = GridSearchCV(ensemble.RandomForestClassifier(5, random_state=0), {"max_depth": [2]}, cv=2).fit(X, y)
    assert near(backlight.explain(forest, X[:5]).values, backlight.explain(forest.best_estimator_, X[:5]).values, 0)
    with pytest.raises(backlight.errors.NotFittedModel, match="no best_estimator_: fit it with refit=True"):
        backlight.explain(GridSearchCV(svm.SVC(), {"C": [1.0]}, cv=2, refit=False).fit(X, y), X)
    moved = FixedThresholdClassifier(linear_model.LogisticRegression()).fit(X, y == 0)
    with pytest.raises(backlight.errors.UnsupportedModel, match=r"moves the line.*explain its estimator_"):
        backlight.explain(moved, X)


def test_columns_keep_their_names_where_a_model_hands_on_an_array_without_them(rng):
    """RANSAC fits its regression on an array: columns in another order must not be explained as if they were not."""
    X, _ = table(rng)
    frame = pd.DataFrame(X, columns=list("edcba"))
    model = linear_model.RANSACRegressor(min_samples=0.6, random_state=0).fit(frame, X @ np.arange(5))
    ex = backlight.explain(model, frame[list("abcde")])
    assert ex.feature_names == tuple("edcba")
    assert near(np.asarray(ex.output), model.predict(frame))
    with pytest.raises(backlight.errors.ColumnsError, match="missing: c"):
        backlight.explain(model, frame.drop(columns="c"))


# -- densities ---------------------------------------------------------------------------------------------------------


def test_conditional_surprise_is_the_log_density_given_all_other_features(rng):
    X, _ = table(rng)
    Q, h = X[:20] + 0.3 * rng.normal(size=(20, 5)), 0.8
    ex = backlight.explain(neighbors.KernelDensity(bandwidth=h).fit(X), Q, rules="conditional_surprise")

    def log_p(A, B):
        parts = -((A[:, None] - B) ** 2).sum(2) / (2 * h * h)
        return logsumexp(parts, axis=1) - np.log(len(B)) - A.shape[1] / 2 * np.log(2 * np.pi * h * h)

    for i in range(5):
        others = [j for j in range(5) if j != i]
        given = log_p(Q, X) - log_p(Q[:, others], X[:, others])  # log p(x_i | the others)
        assert near(ex.values[:, i], -given - np.log(2 * np.pi * h * h) / 2)


def test_kernels_that_end_refuse_rows_outside_and_offer_the_distance(rng):
    X, _ = table(rng)
    for kernel in ("epanechnikov", "linear", "cosine"):
        model = neighbors.KernelDensity(kernel=kernel, bandwidth=4.0).fit(X)
        inside = X[:30] + 0.01 * rng.normal(size=(30, 5))
        ex = backlight.explain(model, inside)
        assert near(np.asarray(ex.output), -model.score_samples(inside), 1e-9)
        assert np.abs(ex.residual).max() <= 1e-9
        with pytest.raises(backlight.errors.DataError, match=r"row 1 lies outside the support.*'support_distance'"):
            backlight.explain(model, np.r_[inside[:1], inside[:1] + 100])
        assert np.isneginf(backlight.neuralize(model, score="score_samples")(inside[:1] + 100).numpy()).all()
        far = backlight.explain(model, inside + 100, score="support_distance")
        nearest = np.sqrt(((inside[:, None] + 100 - X) ** 2).sum(2).min(1)) / 4
        assert near(far.values.sum(1), nearest)
    with pytest.raises(backlight.errors.UnsupportedModel, match=r"'tophat'.*step function"):
        backlight.neuralize(neighbors.KernelDensity(kernel="tophat").fit(X))


@pytest.mark.parametrize(
    "model",
    [
        svm.OneClassSVM(kernel=laplacian_kernel),
        neighbors.KernelDensity(kernel="exponential"),
    ],
)
def test_distances_that_are_not_squared_are_shared_by_their_own_terms(model, rng):
    """City-block: |δ_i|/Σ|δ|; Euclidean: δ_i²/‖δ‖²."""
    X, _ = table(rng)
    model.fit(X)
    Q = X[:12] + rng.normal(size=(12, 5))
    if isinstance(model, svm.OneClassSVM):
        U, alpha = X[model.support_], model.dual_coef_[0] / model.dual_coef_.sum()
        parts = np.abs(Q[:, None] - U) / 5
    else:
        U, alpha = X, np.full(len(X), 1 / len(X))
        delta = Q[:, None] - U
        parts = delta**2 / np.sqrt((delta**2).sum(2))[:, :, None] / 1.0
    h = parts.sum(2)
    p = alpha * np.exp(-h)
    o = -np.log(p.sum(1))
    p /= p.sum(1, keepdims=True)
    w = p / (h + 0.01 * (p * h).sum(1, keepdims=True))
    expected = (w[:, :, None] * parts).sum(1) * (o / (w * h).sum(1))[:, None]
    assert near(backlight.explain(model, Q).values, expected)


# -- energies and ensembles ----------------------------------------------------------------------------------------------


def test_free_energies_pass_each_hidden_unit_by_its_secant(rng):
    X = (rng.random((60, 6)) > 0.5).astype(float)
    model = neural_network.BernoulliRBM(4, n_iter=5, random_state=0).fit(X)
    W, c, b = model.components_, model.intercept_hidden_, model.intercept_visible_
    expected = -X * b
    for n, v in enumerate(X):
        for j in range(4):
            step = W[j] @ v
            if step != 0:
                slope = (np.logaddexp(0, step + c[j]) - np.logaddexp(0, c[j])) / step
                expected[n] -= slope * W[j] * v
    assert near(backlight.explain(model, X).values, expected)


def test_an_ensemble_explains_the_mean_and_the_variance_of_its_members(rng):
    X, _ = table(rng)
    y = X[:, 0] * X[:, 1]
    bag = ensemble.BaggingRegressor(svm.SVR(C=5.0), n_estimators=5, random_state=0).fit(X, y)
    Q = X[:20]
    members = [backlight.explain(one, Q) for one in bag.estimators_]
    R = np.stack([ex.values for ex in members])
    f = np.stack([np.asarray(ex.output) for ex in members])

    mean = backlight.explain(bag, Q)
    assert near(mean.values, R.mean(0))
    spread = backlight.explain(bag, Q, score="variance")
    covariances = ((R - R.mean(0)) * (f - f.mean(0))[:, :, None]).mean(0)
    assert near(spread.values, covariances)
    assert near(np.asarray(spread.output), f.var(0))


def test_a_probability_is_a_half_and_the_secant_of_its_log_odds(rng):
    X, y = table(rng, classes=2)
    model = linear_model.LogisticRegression().fit(X, y)
    odds, share = (backlight.explain(model, X, 1, score=s) for s in ("log_odds", "probability"))
    slope = (np.asarray(share.output) - 0.5) / np.asarray(odds.output)
    assert near(share.values, odds.values * slope[:, None])
    assert near(np.asarray(share.output), model.predict_proba(X)[:, 1])


def test_linear_models_count_from_a_reference(rng):
    X, y = table(rng, classes=2)
    model = make_pipeline(StandardScaler(), linear_model.LogisticRegression()).fit(X, y)
    ex = backlight.explain(model, X, 1, reference=X[y == 0])
    weight = model[1].coef_[0] / model[0].scale_
    assert near(ex.values, weight * (X - X[y == 0].mean(0)))
    assert near(ex.base_values, np.full(len(X), model.decision_function(X[y == 0]).mean()))
