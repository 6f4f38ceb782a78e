"""`Prototypes`: what was found, for how much, and how sure (one class)."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from backlight._explain import explain
from backlight._prototype.maximise import Progress, maximise
from backlight._prototype.problem import Certificate, Found, Problem
from backlight._prototype.setup import Setup
from backlight._prototype.subject import Subject
from backlight.errors import ArgumentError, BacklightError, NameNotFound, listed, reading
from backlight.explanation import Explanation
from backlight.explanation.versions import versions
from backlight.priors import Gaussian as GaussianPrior
from backlight.priors import KernelDensity as KernelPrior
from backlight.priors import LogProb, Mixture
from backlight.tables import frame_like

if TYPE_CHECKING:
    from backlight._prototype.evaluation import Evaluation
    from backlight._prototype.plots import Plots
    from backlight._prototype.regularization_path import Path as StrengthPath

__all__ = ["SOLVED", "Prototypes"]

_DENSITIES = (GaussianPrior, Mixture, KernelPrior, LogProb)
_DRAWN = 512

# statuses of targets that have a solution
SOLVED = ("exact", "global", "local", "stationary", "max_iter")


@dataclass(frozen=True, slots=True, eq=False)
class Prototypes:
    """Inputs that a model looks for, one for each target.

    Attributes
    ----------
    x : (targets, \\*shape)
        The inputs, in the user's units.
    z : (targets, k) or None
        Their codes, in a space with a code.
    f, omega, value : (targets,)
        What is maximised, the prior's energy Ω, and f − strength · Ω, all of them at ``x`` by the model itself.
    status : tuple of str
        How it was found: "exact", "global" (within the certificate), "local", "stationary", "max_iter", "dead_start",
        "interrupted"; "unbounded" and "infeasible" (proved), "not_found" (a search ended with nothing).
    flags : tuple of tuples of str
        What is wrong with it, whatever its status: "wrong_class" (the model sees another class in it), "off_prior"
        (less plausible than anything the prior knows).
    certificate : tuple of Certificate
    names : tuple of str
        The targets.
    decided : tuple of str
        What the model decides at each; empty strings where it does not classify.
    feature_names : tuple of str
    optima : tuple of lists of (value, hits)
        Distinct optima of the restarts.
    notes : tuple of lists of str
        What is worth knowing, in sentences.
    strength : float
    center : (\\*shape) or None
        The prior's centre, or the mean of the data: what ``moved`` counts from.
    provenance : dict
        Model, prior, space, versions, seed, fingerprint.
    """

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
    def made(cls, setup: Setup, progress: bool | Progress | None = None) -> Prototypes:
        """Solve what was asked."""
        solved = maximise(setup, progress)
        return cls.of(solved.problems, solved.found, setup, kind=solved.kind, shape=solved.shape)

    @classmethod
    def of(
        cls, problems: Sequence[Problem], found: Sequence[Found], setup: Setup, *, kind: str, shape: tuple[int, ...]
    ) -> Prototypes:
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

    def __iter__(self) -> Iterator[Prototypes]:
        return (self[t] for t in range(len(self)))

    def __getitem__(self, which: Any) -> Prototypes:
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

    def to_frame(self) -> Any:
        """The prototypes as a table of the kind that ``data`` had: one row a target, the columns by name."""
        columns: dict[str, Any] = {"target": np.array(self.names, dtype=object)}
        flat = self.x.reshape(len(self), -1)
        columns |= {name: flat[:, i].astype(float) for i, name in enumerate(self.feature_names)}
        return frame_like(columns, "pandas" if self.kind in ("numpy", "torch", "scipy") else self.kind)

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

    def outcome(self, t: int) -> str:
        """Status and flags of one target, in words."""
        return ", ".join((self.status[t], *self.flags[t]))

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
        cells = "".join(f"<th>{html.escape(text)}</th>" for text in head)
        lines = [f"<tr>{cells}</tr>"]
        lines += ["<tr>" + "".join(f"<td>{html.escape(text)}</td>" for text in row) + "</tr>" for row in body]
        return f"<table>{''.join(lines)}</table>"

    # -- judging ---------------------------------------------------------------------------------------------------

    def _live(self) -> tuple[Setup, tuple[Problem, ...]]:
        if self.setup is None or not self.problems:
            raise BacklightError(
                "these prototypes were loaded from a file, without their model: p.replay(model) makes them anew"
            )
        return self.setup, self.problems

    def evaluate(self, X: Any, y: Any = None, judges: Sequence[Any] = ()) -> Evaluation:
        """Judge the prototypes by data and models that had no part in making them.

        Parameters
        ----------
        X : rows of the model's inputs, best held out
        y : labels, optional
            Names of the outputs, or their indices: for the class means and the nearest row of the class.
        judges : models
            Independent classifiers of the same classes: modules that give logits, estimators with ``predict_proba``.

        Returns
        -------
        Evaluation
            For every prototype, and beside it for the class mean and the row that the model likes best: the model's
            own confidence, the mean confidence of the judges (transfer), the rank of its likelihood among the rows,
            and its distance from the nearest row.
        """
        from backlight._prototype.evaluation import judge

        _, problems = self._live()
        return judge(self, problems, X, y, judges)

    def nearest(self, X: Any, k: int = 5) -> tuple[np.ndarray, np.ndarray]:
        """The k rows nearest to each prototype, and their distances, (targets, k) each.

        Columns of a table count in their standard deviations among the rows; pixels as they are.
        """
        _, problems = self._live()
        rows = problems[0].subject.encode(X).flatten(1).double().numpy()
        if k < 1 or k > len(rows):
            raise ArgumentError(f"k={k} must be from 1 to the {len(rows)} rows")
        flat = self.x.reshape(len(self), -1).astype(float)
        if rows.shape[1] != flat.shape[1]:
            raise ArgumentError(f"rows have {rows.shape[1]} numbers, prototypes {flat.shape[1]}")
        scale = np.ones(rows.shape[1])
        if self.x.ndim == 2:
            scale = np.where(rows.std(0) > 0, rows.std(0), 1.0)
        from scipy.spatial.distance import cdist

        far = cdist(flat / scale, rows / scale)
        order = np.argsort(far, axis=1, kind="stable")[:, :k]
        return order, np.take_along_axis(far, order, 1)

    def explain(self, method: str = "account", **options: Any) -> Explanation:
        """Which features pay, and which cost.

        Parameters
        ----------
        method : str
            ``"account"``: what f gains and what strength · Ω costs, feature by feature, both counted from the centre of
            the prior by integrated gradients along the straight line (Sundararajan, Taly, Yan, 2017). The two outputs
            add up to the differences; for linear f and a Gaussian, :math:`w_i (x_i^*-\\mu_i)` and half of it, exactly.
            Any other method is handed to `backlight.explain`, of f at the prototypes.
        options
            For `backlight.explain`.

        Returns
        -------
        Explanation
            One row a target.
        """
        setup, problems = self._live()
        if method == "account":
            from backlight._prototype.attribution import account

            return account(self, problems)
        wanted = [p.objective.wanted for p in problems]
        if any(k is None for k in wanted):
            raise ArgumentError(f"method={method!r} explains classes; these targets are {listed(self.names)}")
        several = len(problems[0].subject.outputs) > 1
        target = np.array(wanted, dtype=int) if several else None
        return explain(setup.model, self.x, target, method=method, **options)

    def path(self, strengths: Sequence[float] = (0.1, 0.3, 1.0, 3.0, 10.0)) -> StrengthPath:
        """The same prototypes at other strengths of the prior, each started from its neighbour too."""
        from backlight._prototype.regularization_path import follow

        self._live()
        return follow(self, strengths)

    @property
    def plot(self) -> Plots:
        """Pictures, with matplotlib: ``p.plot()``, ``p.plot.energy()``, ``p.plot.restarts()``."""
        from backlight._prototype.plots import Plots

        return Plots(self)

    # -- files -----------------------------------------------------------------------------------------------------

    def save(self, path: str | Path, *, force: bool = False) -> None:
        """Write everything that is needed to look at the prototypes again, and to make them again: ``.safetensors``."""
        from backlight._prototype.storage import save

        save(self, Path(path), force=force)

    @classmethod
    def load(cls, path: str | Path) -> Prototypes:
        """Read what `save` wrote. No code is run from the file."""
        from backlight._prototype.storage import load

        with reading(Path(path), "prototypes"):
            return cls(**load(Path(path)))

    def replay(self, model: Any, **options: Any) -> Prototypes:
        """Make loaded prototypes again with the model, bit for bit on the same machine.

        Parameters
        ----------
        model : the same model; its fingerprint is compared
        options
            What a file cannot hold: a ``prior``, ``space`` or ``target`` made of functions, large ``data``.
        """
        from backlight._prototype.storage import replayed

        return Prototypes.made(replayed(self, model, options))


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
