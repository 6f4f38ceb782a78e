"""What a detector is, and how one is added: a file here that ends in one `register` or `register_member`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from backlight.anomaly.encoding import Encoder
from backlight.explanation.score_units import ScoreUnit

__all__ = [
    "DETECTORS", "MEMBERS", "Contributions", "Detector", "FittedDetector", "Member", "MemberKind", "Reference",
    "register", "register_member",
]  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """The rows that a detector learns from.

    Attributes
    ----------
    encoder : Encoder
    z : array of shape (m, p)
        The rows, encoded.
    """

    encoder: Encoder
    z: np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class Contributions:
    """Scores of rows and what every column contributes to them: score = base + values.sum(1).

    Attributes
    ----------
    values : array of shape (n, d)
    base : array of shape (n,)
        The part of the score that belongs to no column.
    score : array of shape (n,)
        Of each row by the others.
    members : tuple of str
        The detectors of an ensemble; empty for a single one.
    named : array of int of shape (n, d)
        How many of them name the column: give it at least half of what they give to the column they name first.
    annotations : mapping
        Facts about rows that explanations carry.
    """

    values: np.ndarray
    base: np.ndarray
    score: np.ndarray
    members: tuple[str, ...] = ()
    named: np.ndarray | None = None
    annotations: Mapping[str, np.ndarray] = field(default_factory=dict)


class FittedDetector(Protocol):
    """A detector that has learnt. ``own`` says which reference row each row is, −1 for none: it is left out."""

    @property
    def kind(self) -> str:
        """What it is, for people."""

    @property
    def unit(self) -> ScoreUnit:
        """What its score is counted in."""

    @property
    def method(self) -> str:
        """How its contributions are found."""

    @property
    def own_threshold(self) -> float | None:
        """The score above which it flags rows itself; None where that comes from the tail of scores."""

    def score(self, coded: np.ndarray, own: np.ndarray) -> np.ndarray:
        """The outlierness of rows (n, d), higher is more unusual."""

    def contributions(self, coded: np.ndarray, own: np.ndarray) -> Contributions:
        """The scores again, and every column's part of them."""

    def embed(self, coded: np.ndarray) -> np.ndarray:
        """The rows in the space where near means alike."""

    def fingerprint(self) -> str:
        """A hash of everything that was learnt."""


@dataclass(frozen=True, slots=True)
class Detector:
    """A kind of detector.

    Attributes
    ----------
    name, title : str
        What it is called on the command line, and for people.
    fit : function of a Reference to a FittedDetector
    most_rows : int
        More reference rows make it slower and hardly better.
    """

    name: str
    title: str
    fit: Callable[[Reference], FittedDetector]
    most_rows: int = 4000


class Member(Protocol):
    """A detector within the ensemble, on encoded rows (n, p)."""

    def score(self, z: np.ndarray, own: np.ndarray) -> np.ndarray:
        """The outlierness of rows."""

    def evidence(self, z: np.ndarray, own: np.ndarray) -> np.ndarray:
        """How much each column speaks for it, (n, d), at least 0; only the proportions within a row are used."""


@dataclass(frozen=True, slots=True)
class MemberKind:
    """A kind of member: ``sees`` says in a few words what it looks at."""

    name: str
    sees: str
    fit: Callable[[Reference], Any]


DETECTORS: dict[str, Detector] = {}
MEMBERS: dict[str, MemberKind] = {}


def register(detector: Detector) -> Detector:
    """Make a detector known by its name."""
    DETECTORS[detector.name] = detector
    return detector


def register_member(kind: MemberKind) -> MemberKind:
    """Make a member of the ensemble known by its name."""
    MEMBERS[kind.name] = kind
    return kind
