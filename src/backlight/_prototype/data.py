"""What prototypes hold: what was found, for how much, and how sure. It knows no plot, page or file."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch

from backlight._prototype.categories import Categories
from backlight._prototype.maximise import Progress, maximise
from backlight._prototype.problem import Certificate, Found, Problem
from backlight._prototype.setup import Setup
from backlight._prototype.subject import Subject
from backlight.arguments import checked
from backlight.errors import ArgumentError, BacklightError, NameNotFound, listed
from backlight.explanation.faces import as_table
from backlight.explanation.versions import versions
from backlight.hints import FrameLike
from backlight.priors import Gaussian as GaussianPrior
from backlight.priors import KernelDensity as KernelPrior
from backlight.priors import LogProb, Mixture
from backlight.tables import frame_like

__all__ = ["SOLVED", "PrototypeData"]

_DENSITIES = (GaussianPrior, Mixture, KernelPrior, LogProb)
_DRAWN = 512

# statuses of targets that have a solution
SOLVED = ("exact", "global", "local", "stationary", "max_iter")


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class PrototypeData:
    """What `Prototypes` hold, how they are made and chosen from; how they are drawn and stored is told there."""

    x: np.ndarray
    z: np.ndarray | None
    f: np.ndarray
    omega: np.ndarray
    value: np.ndarray
    status: tuple[str, ...]
    certificate: tuple[Certificate, ...]
    names: tuple[str, ...]
    decided: tuple[str, ...]
    feature_names: tuple[str, ...]
    optima: tuple[list[tuple[float, int]], ...]
    notes: tuple[list[str], ...]
    strength: float
    center: np.ndarray | None
    provenance: dict[str, Any]
    flags: tuple[tuple[str, ...], ...] = ()
    kind: str = "numpy"
    setup: Setup | None = None
    problems: tuple[Problem, ...] = ()

    @classmethod
    def made(cls, setup: Setup, progress: bool | Progress | None = None) -> Self:
        """Solve what was asked."""
        solved = maximise(setup, progress)
        return cls.of(solved.problems, solved.found, solved.setup, kind=solved.kind, shape=solved.shape)

    @classmethod
    def of(
        cls, problems: Sequence[Problem], found: Sequence[Found], setup: Setup, *, kind: str, shape: tuple[int, ...]
    ) -> Self:
        """Results with f and Ω from the model itself, at the inputs in the model's own precision."""
        one = problems[0]
        x = torch.as_tensor(np.stack([result.x for result in found])).reshape(len(found), *shape)
        x = x.to(one.subject.dtype)
        codes = None
        if one.space.has_code and all(result.z is not None for result in found):
            codes = np.stack([np.asarray(result.z) for result in found])
        with torch.no_grad():
            z = x.flatten(1).double() if codes is None else torch.as_tensor(codes)
            good = torch.isfinite(x.flatten(1)).all(1)
            f, omega = torch.full((len(found),), math.nan, dtype=torch.float64), torch.zeros(len(found)).double()
            for t, problem in enumerate(problems):
                if good[t]:
                    f[t] = problem.target(x[t : t + 1])[0]
                    omega[t] = _energy(problem, x[t : t + 1], z[t : t + 1])
                else:
                    omega[t] = math.nan
            decided = _decisions(one.subject, x, good)
        value = -omega if math.isinf(setup.strength) else f - setup.strength * omega
        flags, notes = [], []
        far = _farthest(one)
        for t, (problem, result) in enumerate(zip(problems, found, strict=True)):
            wrong, said = _judged(problem, result, decided[t], float(omega[t]), far)
            flags.append(wrong)
            notes.append([*result.notes, *said])
        mean = _center(one)
        provenance = {
            "model": one.subject.kind, "prior": repr(one.prior), "space": repr(one.space), "seed": setup.seed,
            "strength": setup.strength, "fingerprint": one.subject.fingerprint(), "versions": versions(),
        }  # fmt: skip
        if one.subject.categories is not None and one.subject.groups:
            provenance["columns"] = one.subject.categories.told()
        names = tuple(one.subject.outputs[k] if k >= 0 else "" for k in decided)
        return cls(
            x.numpy(), codes, f.numpy(), omega.numpy(), value.numpy(), tuple(r.status for r in found),
            tuple(result.certificate for result in found), _numbered([p.objective.name for p in problems]), names,
            tuple(one.names), tuple(list(result.optima) for result in found), tuple(notes), float(setup.strength),
            None if mean is None else mean.reshape(shape), provenance, tuple(flags), kind, setup, tuple(problems),
        )  # fmt: skip

    # -- looking ---------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[Self]:
        return (self[t] for t in range(len(self)))

    def __getitem__(self, which: Any) -> Self:
        """Some of the targets: by position, slice, list of positions, or name."""
        if isinstance(which, str):
            if which not in self.names:
                raise NameNotFound(f"there is no prototype {which!r}: choose from {listed(map(repr, self.names))}")
            which = self.names.index(which)
        if isinstance(which, int | np.integer):
            if not -len(self) <= which < len(self):
                raise IndexError(f"there are {len(self)} prototypes, not {which}")
            which = [int(which) % len(self)]
        places = list(np.arange(len(self))[which])

        def some(items: Sequence[Any]) -> tuple[Any, ...]:
            return tuple(items[t] for t in places)

        return replace(
            self, x=self.x[places], z=None if self.z is None else self.z[places], f=self.f[places],
            omega=self.omega[places], value=self.value[places], status=some(self.status),
            certificate=some(self.certificate), names=some(self.names), decided=some(self.decided),
            optima=some(self.optima), notes=some(self.notes), flags=some(self.flags),
            problems=some(self.problems) if self.problems else (),
        )  # fmt: skip

    def to_frame(self) -> FrameLike:
        """The prototypes as a table of the kind that ``data`` had: one row a target, in the table's own columns."""
        columns: dict[str, Any] = {"target": np.array(self.names, dtype=object), **self.columns()}
        return frame_like(columns, "pandas" if self.kind in ("numpy", "torch", "scipy") else self.kind)

    def columns(self) -> dict[str, np.ndarray]:
        """What each column of the table is at each prototype: a number, or a category where the table has such."""
        flat = self.x.reshape(len(self), -1)
        if "columns" in self.provenance:
            return Categories.table(flat, self.provenance["columns"])
        return {name: flat[:, i].astype(float) for i, name in enumerate(self.feature_names)}

    @checked
    def moved(self, k: int = 10) -> list[list[tuple[str, float, float]]]:
        """For each target the columns that moved most from the centre: name, from, to.

        Largest first in the prior's own standard deviations, or the data's; columns that did not move are left out.
        """
        if self.center is None:
            raise ArgumentError("there is no centre to count from: the prior has none, and no data were given")
        start, flat = self.center.ravel(), self.x.reshape(len(self), -1).astype(float)
        scale = self._scale(len(start))
        found = []
        for row in flat:
            size = np.abs(row - start) / scale
            order = [i for i in np.argsort(-size, kind="stable")[:k] if size[i] > 1e-12]
            found.append([(self.feature_names[i], float(start[i]), float(row[i])) for i in order])
        return found

    def _scale(self, d: int) -> np.ndarray:
        if self.problems:
            one = self.problems[0]
            white = None if one.prior is None else one.prior.spread()
            if white is not None and len(white.mean) == d:
                L = white.factor
                size = (L.abs() if L.ndim == 1 else L.square().sum(1).sqrt()).numpy()
                return np.where(size > 0, size, 1.0)
            if one.data is not None:
                size = one.data.std(0).numpy()
                return np.where(size > 0, size, 1.0)
        return np.ones(d)

    @checked
    def outcome(self, t: int) -> str:
        """Status and flags of one target, in words."""
        return ", ".join((self.status[t], *self.flags[t]))

    @checked
    def fine(self, t: int) -> bool:
        """Whether a target has a solution of which nothing is wrong."""
        return self.status[t] in SOLVED and not self.flags[t]

    def _rows(self) -> list[list[str]]:
        rows = [["target", "decided", "f", "Ω", "f − strength·Ω", "status", "certificate"]]
        for t, name in enumerate(self.names):
            rows.append([
                name, self.decided[t], f"{self.f[t]:.4g}", f"{self.omega[t]:.4g}", f"{self.value[t]:.4g}",
                self.outcome(t), str(self.certificate[t]),
            ])  # fmt: skip
        if not any(self.decided):
            rows = [row[:1] + row[2:] for row in rows]
        return rows

    def __repr__(self) -> str:
        p = self.provenance
        lines = [f"Prototypes of {p.get('model', '')}: {p.get('prior', '')}, strength {self.strength:g}"]
        rows = self._rows()
        shown = rows if len(rows) <= 21 else [*rows[:20], ["…"] + [""] * (len(rows[0]) - 1)]
        widths = [max(len(row[c]) for row in shown) for c in range(len(rows[0]))]
        right = {"f", "Ω", "f − strength·Ω"}
        for row in shown:
            cells = [
                text.rjust(width) if head in right else text.ljust(width)
                for text, width, head in zip(row, widths, rows[0], strict=True)
            ]
            lines.append("  ".join(cells).rstrip())
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        head, *body = self._rows()
        p = self.provenance
        title = f"Prototypes of {p.get('model', '')}: {p.get('prior', '')}, strength {self.strength:g}"
        said = [
            f"{name}: {self.notes[t][-1]}" for t, name in enumerate(self.names) if not self.fine(t) and self.notes[t]
        ]
        return as_table(title, head, body, said)

    def _live(self) -> tuple[Setup, tuple[Problem, ...]]:
        if self.setup is None or not self.problems:
            raise BacklightError(
                "these prototypes were loaded from a file, without their model: p.replay(model) makes them anew"
            )
        return self.setup, self.problems


def _numbered(names: Sequence[str]) -> tuple[str, ...]:
    """Names of which several for one target are told apart."""
    seen: dict[str, int] = {}
    found = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        found.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return tuple(found)


def _energy(problem: Problem, x: torch.Tensor, z: torch.Tensor) -> float:
    """Ω at a result. On a singular Gaussian rounding to the model's precision must not count as leaving it."""
    omega = float(problem.energy(x, z)[0])
    white = problem.white
    if math.isinf(omega) and white is not None and problem.prior is not None:
        v = white.encode(x.flatten(1).double())
        omega = (0.5 * float(v.square().sum()) + white.constant) / (1.0 if problem.smallest else problem.strength)
    return omega


def _decisions(subject: Subject, x: torch.Tensor, good: torch.Tensor) -> list[int]:
    if not subject.classifies:
        return [-1] * len(x)
    found = [-1] * len(x)
    for t in range(len(x)):
        if good[t]:
            found[t] = int(subject.decide(x[t : t + 1].to(subject.device))[0])
    return found


def _farthest(problem: Problem) -> tuple[float, str] | None:
    """The largest Ω of what the prior knows: the data, or draws of its own."""
    prior = problem.prior
    if not isinstance(prior, _DENSITIES) or problem.space.has_code:
        return None
    with torch.no_grad():
        # rows of a kernel density sit on their own kernels: what it draws does not
        if problem.data is not None and not isinstance(prior, KernelPrior):
            energies = prior.energy(problem.data.reshape(-1, *problem.shape)).double()
            finite = energies[torch.isfinite(energies)]
            return (float(finite.max()), f"the largest of {len(energies)} rows") if len(finite) else None
        drawn = prior.draw(_DRAWN, torch.Generator().manual_seed(0))
        if drawn is None:
            return None
        energies = prior.energy(drawn.reshape(-1, *problem.shape)).double()
        return float(energies.max()), f"the largest of {_DRAWN} draws"


def _judged(
    problem: Problem, result: Found, decided: int, omega: float, far: tuple[float, str] | None
) -> tuple[tuple[str, ...], list[str]]:
    """Flags and sentences: what the model and the prior say of the result."""
    if result.status not in SOLVED:
        return (), []
    flags, said = [], []
    subject, wanted = problem.subject, problem.objective.wanted
    if subject.classifies and wanted is not None and decided >= 0 and decided != wanted:
        flags.append("wrong_class")
        said.append(
            f"the model sees {subject.outputs[decided]!r} in it, not {subject.outputs[wanted]!r}: at strength "
            f"{problem.strength:g} the prior outweighs the target; try a smaller strength, or constraints=[decision()]"
        )
    if far is not None and omega > far[0] and not problem.smallest:
        flags.append("off_prior")
        said.append(
            f"Ω = {omega:.4g} is above {far[1]}, {far[0]:.4g}: less plausible than anything the prior knows; try a "
            "larger strength"
        )
    return tuple(flags), said


def _center(problem: Problem) -> np.ndarray | None:
    if problem.white is not None:
        return problem.white.mean.numpy()
    if problem.data is not None:
        return problem.data.mean(0).numpy()
    spread = None if problem.prior is None else problem.prior.spread()
    if spread is not None and len(spread.mean) == problem.dimension:
        return spread.mean.numpy()
    return None
