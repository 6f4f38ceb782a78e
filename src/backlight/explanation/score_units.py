"""What a score is counted in, and what one of it means: for people."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DISTANCE", "LOCAL", "NATS", "PLAIN", "SQUARED", "ScoreUnit"]


@dataclass(frozen=True, slots=True)
class ScoreUnit:
    """A unit of a score.

    Attributes
    ----------
    name : str
        As it stands behind a number; may be empty.
    meaning : str
        What the model measures, and what one unit more of it means, in sentences.
    """

    name: str
    meaning: str


PLAIN = ScoreUnit("", "The score is the model's own.")
NATS = ScoreUnit(
    "nats",
    "The detector measures how far a row is from the rows that it learnt from. Each nat more means that rows like "
    "this are e ≈ 2.7 times rarer.",
)
LOCAL = ScoreUnit(
    "× neighbours' spacing",
    "The detector compares how far a row is from its nearest training rows with how far those are from theirs: 1 "
    "means as close as they are, 2 twice as far.",
)
DISTANCE = ScoreUnit(
    "of distance",
    "The detector measures the distance of a row to its nearest training rows, in the space that the model sees: "
    "behind a scaler, in standard deviations.",
)
SQUARED = ScoreUnit(
    "of squared distance",
    "The detector measures the squared distance of a row from what the model expects of it, in the space that the "
    "model sees: of independent standardised columns each adds one on average.",
)
