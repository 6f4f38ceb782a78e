"""The checks of the course: a wrong answer gets a sentence that helps, a right one is told so."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "docs" / "course"))
import checks

W, MEAN, A = np.array([1.0, -2.0, 0.5]), np.array([0.1, 0.2, 0.3]), np.array([[1.0], [0.5], [0.0]])
EX = SimpleNamespace(output=np.array([3.0]), values=np.array([[1.0, 0.5]]), base_values=np.array([1.5]))
VALUES = np.array([[5.0, 2.0], [-6.0, 2.0]])


class Sign:
    def predict(self, X):
        return (np.asarray(X).sum(1) > 0).astype(int)


@pytest.mark.parametrize(
    ("check", "right", "wrong", "help_"),
    [
        (lambda a: checks.check_l2(a, W, 0.5), W, W / 0.5, "2x, not x"),
        (lambda a: checks.check_l2(a, W, 0.5), W, -W, "sign is wrong"),
        (lambda a: checks.check_l2(a, W, 0.5), W, [1.0], "needs 3 numbers"),
        (lambda a: checks.check_l2(a, W, 0.5), W, 7 * W, "gradient"),
        (lambda a: checks.check_singular(a, MEAN, A, W), MEAN + A @ A.T @ W, MEAN + W, "through Σ first"),
        (lambda a: checks.check_singular(a, MEAN, A, W), MEAN + A @ A.T @ W, A @ A.T @ W, "start from μ"),
        (checks.check_tie, [1, 0], [0.5, 0.5], "canonical form"),
        (checks.check_tie, [1, 0], [0, 1], "other network"),
        (lambda a: checks.check_limit(a, 8, 2.0), np.log(8) / 2, np.log(8), "divides the logarithm by γ"),
        (checks.check_gradient, "the score", "zero", "when all pixels are doubled"),
        (checks.check_gradient, "f(x)", "the largest pixel", "f(tx)"),
        (lambda a: checks.check_limit(a, 8, 2.0), np.log(8) / 2, 1.0, "Take the logarithm"),
        (lambda a: checks.check_singular(a, MEAN, A, W), MEAN + A @ A.T @ W, [9.0, 9.0, 9.0], "Which part of it"),
        (checks.check_tie, [1, 0], [0.2, 0.3], "which inputs are left"),
        (checks.check_conserves, "bias", "the sky", "the ledger's column"),
        (lambda a: checks.check_budget(a, EX, 0), 3.0, 7.0, "ex.base_values[row]"),
        (
            lambda a: checks.check_mean(a, np.array([[5.0, 2.0, 0.1], [-6.0, 2.0, 0.1]])),
            1,
            2,
            "the mean over rows first",
        ),
        (checks.check_conserves, "the biases", "the ReLU", "hands on what it gets"),
        (checks.check_reference, "zero", "the mean", "For which reference"),
        (lambda a: checks.check_planted(a, 2), 2, 1, "planted"),
        (lambda a: checks.check_mean(a, VALUES), 1, 0, "on average"),
        (lambda a: checks.check_flip(Sign(), [1.0, 1.0], a), [-2.0, 1.0], [0.5, 0.0], "still 1"),
        (lambda a: checks.check_budget(a, EX, 0), 3.0, 1.5, "base value"),
    ],
)
def test_a_wrong_answer_gets_a_sentence_that_helps(check, right, wrong, help_):
    assert check(right).startswith("Right")
    said = check(wrong)
    assert help_ in said
    assert not said.startswith("Right")


COURSE = Path(__file__).parents[1] / "docs" / "course"


@pytest.mark.parametrize("lesson", sorted(COURSE.glob("*.md")), ids=lambda path: path.stem)
def test_every_lesson_ends_with_an_exercise_whose_check_is_shown_a_wrong_and_a_right_answer(lesson):
    if lesson.stem == "index":
        return
    _, found, exercise = lesson.read_text(encoding="utf-8").partition("## Exercise")

    assert found
    used = {name for name in checks.__all__ if f"print({name}(" in exercise}
    assert used
    assert all(exercise.count(f"print({name}(") == 2 for name in used)


def test_every_check_belongs_to_an_exercise():
    text = "".join(lesson.read_text(encoding="utf-8") for lesson in COURSE.glob("*.md"))

    assert all(f"print({name}(" in text for name in checks.__all__)
