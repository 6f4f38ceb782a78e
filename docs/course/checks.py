"""Checks of the course's exercises: each says in a sentence what is wrong with an answer, or that it is right."""

from __future__ import annotations

import math

import numpy as np

__all__ = [
    "check_budget", "check_conserves", "check_flip", "check_gradient", "check_l2", "check_limit", "check_mean",
    "check_planted", "check_reference", "check_singular", "check_tie",
]  # fmt: skip


def _vector(answer: object, like: np.ndarray) -> np.ndarray | str:
    found = np.asarray(answer, dtype=float).ravel()
    if found.shape != np.ravel(like).shape:
        return f"The answer needs {np.ravel(like).size} numbers, one for each input; it has {found.size}."
    return found


def check_l2(answer: object, w: np.ndarray, lam: float) -> str:
    """The argmax of w·x − λ‖x‖²: w/(2λ)."""
    found = _vector(answer, w)
    if isinstance(found, str):
        return found
    if np.allclose(found, w / (2 * lam)):
        return "Right: the gradient w − 2λx is zero there, and the function is concave."
    if np.allclose(found, w / lam):
        return "Nearly: the derivative of ‖x‖² is 2x, not x."
    if np.allclose(found, -w / (2 * lam)):
        return "The sign is wrong: the prototype goes along w, since f is maximised."
    return "Set the gradient of w·x − λ‖x‖² to zero, and solve for x."


def check_singular(answer: object, mean: np.ndarray, A: np.ndarray, w: np.ndarray) -> str:
    """μ + AAᵀw under N(μ, AAᵀ)."""
    found = _vector(answer, w)
    if isinstance(found, str):
        return found
    if np.allclose(found, mean + A @ A.T @ w):
        return "Right: and it never leaves μ plus the space that A reaches, though Σ has no inverse."
    if np.allclose(found, mean + w):
        return "That leaves the data's subspace: w has to go through Σ first."
    if np.allclose(found, A @ A.T @ w):
        return "The direction is right; start from μ, not from zero."
    return "Write the solution for an invertible Σ. Which part of it still means something when Σ has no inverse?"


def check_tie(answer: object) -> str:
    """The relevance of the first network at a₁ = a₂ = 1 for any γ: (1, 0)."""
    found = _vector(answer, np.zeros(2))
    if isinstance(found, str):
        return found
    if np.allclose(found, [1, 0]):
        return "Right: the unit a₁ − a₂ is zero there, so everything goes to a₁."
    if np.allclose(found, [0.5, 0.5]):
        return "That would be fair, and it is what the canonical form says; this network cannot."
    if np.allclose(found, [0, 1]):
        return "That is the other network."
    return "At the tie relu(a₁ − a₂) is zero: which inputs are left to carry the score?"


def check_limit(answer: float, M: int, gamma: float) -> str:
    """The bound log(M)/γ between a soft minimum and the minimum."""
    if math.isclose(float(answer), math.log(M) / gamma, rel_tol=1e-9):
        return "Right: M equal distances reach it."
    if math.isclose(float(answer), math.log(M), rel_tol=1e-9):
        return "Nearly: the soft minimum divides the logarithm by γ."
    return "Σ exp(−γ d) is at most M exp(−γ min d). Take the logarithm, and divide by −γ."


def check_gradient(answer: str) -> str:
    """Σ x·∂f/∂x of a ReLU network without biases: the score, since f(tx) = t f(x) for t > 0."""
    word = str(answer).strip().lower()
    if word in ("the score", "score", "f", "f(x)", "the output"):
        return "Right: f(tx) = t f(x) for every t > 0, and the derivative at t = 1 is both sides of it."
    if word in ("zero", "0", "nothing"):
        return "That holds where f does not change along x. What happens to f when all pixels are doubled?"
    return "A ReLU hands on t·z as t times what it makes of z. What is f(tx) then, and its derivative at t = 1?"


def check_conserves(answer: str) -> str:
    """Which of a network's parts keep relevance: the biases."""
    word = str(answer).lower()
    if "bias" in word:
        return "Right: a bias is an input of its own, and what it earns belongs to no feature."
    if "relu" in word or "activation" in word:
        return "No: a ReLU has one input and one output, and hands on what it gets."
    return "Look at the ledger's column of what the bias kept."


def check_reference(answer: str) -> str:
    """Which reference gradient × input uses without saying so: zero."""
    if str(answer).strip().lower() in ("zero", "0", "black"):
        return "Right: it is x times the gradient, the first-order change on the way to zero."
    return "gradient × input is (x − reference) times the gradient. For which reference is it x times the gradient?"


def check_planted(answer: int, found: int) -> str:
    """How many places canonical form names."""
    if int(answer) == found:
        return "Right."
    return "Count the entries of `canonical.planted`."


def check_mean(answer: object, values: np.ndarray) -> str:
    """The column with the largest mean contribution among the flagged rows, by position."""
    if int(np.asarray(answer)) == int(values.mean(0).argmax()):
        return "Right."
    if int(np.asarray(answer)) == int(np.abs(values).max(0).argmax()):
        return "That column has the largest single contribution. Which one is largest on average?"
    return "Take the mean over rows first, then the largest column."


def check_flip(model: object, row: object, changed: object) -> str:
    """Whether a change turns the decision."""
    before, after = (np.asarray(model.predict(np.asarray(r).reshape(1, -1)))[0] for r in (row, changed))  # type: ignore[attr-defined]
    if before != after:
        moved = int((np.abs(np.ravel(row) - np.ravel(changed)) > 1e-9).sum())
        return f"Right: {moved} columns change, and the class goes from {before} to {after}."
    return f"The class is still {before}: go a little beyond the border."


def check_budget(answer: object, ex: object, row: int) -> str:
    """Base value plus contributions of a row."""
    score = float(np.asarray(ex.output)[row])  # type: ignore[attr-defined]
    if math.isclose(float(np.asarray(answer)), score, rel_tol=1e-9, abs_tol=1e-9):
        return "Right: the base value and the contributions are the score."
    if math.isclose(float(np.asarray(answer)), float(ex.values[row].sum()), rel_tol=1e-9):  # type: ignore[attr-defined]
        return "Nearly: the base value belongs to no column, and is part of the score."
    return "Add the row of `ex.values`, and `ex.base_values[row]`."
