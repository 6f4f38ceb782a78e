"""`prototype`: one call for every model."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backlight import targets
from backlight._prototype import again
from backlight._prototype.constrained import constrained, held, needs_programs
from backlight._prototype.exact import SOLVERS
from backlight._prototype.formulas import Formula, Linear, checked, formula_of
from backlight._prototype.gradient_ascent import Batch, Options, ascend, finish
from backlight._prototype.optimizer import Best, evaluate
from backlight._prototype.problem import Certificate, Found, Problem, whitening_of
from backlight._prototype.result import Prototypes, Setup
from backlight._prototype.subject import ModuleSubject, NetworkSubject, Subject, TreeSubject, subject_of
from backlight.constraints import Constraint, compiled
from backlight.errors import ArgumentError, BacklightWarning, DataError, Infeasible, NoPrototype, Unbounded
from backlight.priors import L1, L2, Gaussian, Prior
from backlight.spaces import Generator, Input, Space
from backlight.tables import as_frame
from backlight.targets import Target
from backlight.targets.base import Objective
from backlight.targets.outputs import LogProbability

__all__ = ["prototype"]

Progress = Callable[[int, int], None]


def prototype(
    model: Any,
    target: Any = None,
    *,
    prior: Prior | str | None = None,
    data: Any = None,
    strength: float = 1.0,
    space: Space | None = None,
    bounds: Any = None,
    constraints: Sequence[Constraint] = (),
    init: Any = "top",
    restarts: int = 8,
    optimizer: str = "auto",
    exact: str = "prefer",
    seed: int = 0,
    progress: bool | Progress | None = None,
    steps: int | None = None,
) -> Prototypes:
    r"""What a model looks for: argmax over x of f(x) − strength · Ω(x).

    Where the maximum is known exactly it is given exactly: linear and quadratic models, mixtures, kernel densities,
    clusterings, trees, small ReLU networks; otherwise it is climbed to, from the top-activating rows. Every result has
    a status and a number that says how good it is.

    Parameters
    ----------
    model : fitted scikit-learn estimator or Pipeline, torch.nn.Module, network of `neuralize`, or function of a tensor
        For another score of a scikit-learn model: ``backlight.neuralize(model, score="inlierness")``.
    target : int, str, list, "all", direction, callable or Target, optional
        What is maximised: an output by index or name, several of them, a float vector over the outputs, a function
        from the output to one number a row, or what `backlight.targets` makes: ``logit(3) - logit(8)``,
        ``channel("layer4", [0, 5])``. By default every class of a classifier, the only score of anything else. Classes
        are maximised by their logit.
    prior : Prior or "none", optional
        Ω; see `backlight.priors`. By default the Gaussian of ``data`` (covariance shrunk), in a space with a code
        ``L2(0.5)`` on the code. Without data there is no default: an arbitrary constant would decide the result.
        ``"none"``: bounds alone hold x, also where data are given.
    data : table or tensor, optional
        Rows of the model's inputs: for the default prior, the starts, and to tell whether a result is far off.
    strength : float, default 1
        How much Ω counts; 1 is the maximum a posteriori where Ω is −log p. ``inf``: Ω alone, under constraints.
    space : Space, optional
        How x is written; see `backlight.spaces`.
    bounds : (low, high), dict of column to (low, high), or "data", optional
        Numbers or arrays, None for no bound; ``"data"``: the range of ``data``.
    constraints : sequence, optional
        Of `backlight.constraints`: fixed columns, one-hot groups, whole numbers, linear rules, the decision.
    init : "top", "random", "data", or starts of shape (k, \*shape)
        Where the ascent starts.
    restarts : int
        Starts for each target.
    optimizer : "auto", "lbfgs" or "adam"
        ``"auto"``: L-BFGS, then Adam with a cosine decay.
    exact : "prefer", "require" or "never"
        ``"require"`` raises where no exact solver applies; it also lets a ReLU network be solved by mixed-integer
        programming under bounds.
    seed : int
        For starts and robustness; a generator of its own, the random state of torch and NumPy is left alone.
    progress : bool or callable, optional
        ``True`` writes to the terminal; a callable gets (steps done, steps in all). Interrupting returns the best so
        far, with the status "interrupted".
    steps : int, optional
        Steps of Adam, or evaluations of L-BFGS where that was asked for.

    Returns
    -------
    Prototypes

    Raises
    ------
    Unbounded, Infeasible
        No target has a solution; where some have, the others are rows of NaN with that status.
    UnsupportedModel, DataError, ArgumentError

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_wine
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> import backlight
    >>> wine = load_wine(as_frame=True)
    >>> model = make_pipeline(StandardScaler(), LogisticRegression()).fit(wine.data, wine.target)
    >>> p = backlight.prototype(model, data=wine.data)
    >>> p.status
    ('exact', 'exact', 'exact')
    >>> p.decided
    ('0', '1', '2')
    """
    _check(strength, exact, restarts)
    subject = subject_of(model)
    _refuse_text(subject)
    rows = None if data is None else subject.encode(data)
    space_ = Input() if space is None else space
    shape = _shape(subject, rows, prior if isinstance(prior, Prior) else None, bounds, space_, init)
    if rows is not None:
        rows = rows.reshape(len(rows), *shape) if rows[0].numel() == math.prod(shape) else _misfit(rows, shape)
    flat = None if rows is None else rows.flatten(1)
    prior_ = _prior(prior, flat, space_, strength)
    if prior_ is not None:
        prior_.check((space_.code_dim or 0,) if prior_.on_code and space_.has_code else shape)
    names = subject.names or tuple(f"x{i}" for i in range(math.prod(shape)))
    example = _example(flat, prior_, shape)
    if isinstance(subject, ModuleSubject):
        subject.prepare(example)
        if data is not None and len(shape) == 1:
            names = _names(data, names)
    own = None if prior_ is None else prior_.whitening()
    center = None if own is None else own.mean.numpy()
    region = compiled(bounds, constraints, names, center, None if flat is None else flat.numpy())
    objectives = [one for wanted in _targets(target, subject) for one in wanted.expand(subject.outputs)]
    _logits(subject, objectives, example)
    if math.isinf(strength) and region.free:
        raise ArgumentError("strength=inf asks for the smallest Ω alone, which needs constraints=[decision()]")
    white = whitening_of(prior_, space_, strength, math.prod(shape))
    if region.margin is not None and any(o.wanted is None for o in objectives):
        raise ArgumentError("constraints.decision() needs a class as target: an index, a name, or logit(class)")
    small = exact == "require" or (region.boxed and (prior_ is None or isinstance(prior_, L1)))
    problems = []
    for objective in objectives:
        formula = None
        if exact != "never" and objective.transform is None:
            formula = formula_of(subject, objective, networks=small)
            if formula is not None:
                checked(formula, subject, objective, example)
        rivals = _rivals(subject, objective, region.margin, example) if exact != "never" else None
        problems.append(
            Problem(subject, objective, prior_, space_, strength, region, white, formula, rivals, flat, shape, names)
        )
    setup = Setup(
        model, target, prior, data, strength, space, bounds, tuple(constraints), init, restarts, optimizer, exact, seed,
        steps,
    )  # fmt: skip
    options = Options(init, restarts, optimizer, steps, seed, _reporter(progress))
    found = _solve(problems, options, exact)
    return Prototypes.of(problems, found, setup, kind=_kind(data), shape=shape)


again.register(prototype)


def _solve(problems: list[Problem], options: Options, exact: str) -> list[Found]:
    """What was found for each target; raises where that is nothing for all of them."""
    found: dict[int, Found] = {}
    errors: dict[int, NoPrototype] = {}
    rest = []
    for t, problem in enumerate(problems):
        try:
            solved = _exact(problem) if exact != "never" else None
        except NoPrototype as error:
            errors[t] = error
            continue
        if solved is None:
            rest.append(t)
        else:
            found[t] = solved
    if rest:
        if exact == "require":
            raise ArgumentError(_why_not(problems[rest[0]]))
        if isinstance(problems[0].subject, TreeSubject):
            raise ArgumentError("a tree has no gradient to climb: give a quadratic prior, and leave exact='prefer'")
        climbed = _climbed([problems[t] for t in rest], options, errors, rest)
        found |= {t: result for t, result in zip(rest, climbed, strict=True) if result is not None}
    errors |= {t: Unbounded(result.notes[-1]) for t, result in found.items() if result.status == "unbounded"}
    if len(errors) == len(problems):
        raise next(iter(errors.values()))
    for t, reason in errors.items():
        status = "unbounded" if isinstance(reason, Unbounded) else "infeasible"
        d = problems[t].dimension
        nothing = np.full(d, math.nan)
        found[t] = Found(nothing, status, Certificate("none", math.inf, False), None, notes=[str(reason)])
        warnings.warn(f"target {problems[t].objective.name!r}: {reason}", BacklightWarning, stacklevel=3)
    return [found[t] for t in range(len(problems))]


def _exact(problem: Problem) -> Found | None:
    for solver in SOLVERS:
        found = solver(problem)
        if found is not None:
            return found
    return None


def _climbed(
    problems: list[Problem], options: Options, errors: dict[int, NoPrototype], places: list[int]
) -> list[Found | None]:
    _bounded_at_all(problems)
    problems = [held(p) for p in problems]
    if needs_programs(problems[0]):
        start = Batch([replace(p, region=_without(p)) for p in problems], options)
        best, _, _ = ascend(start) if not problems[0].smallest else _still(start)
        results: list[Found | None] = []
        for t, (problem, place) in enumerate(zip(problems, places, strict=True)):
            rows = slice(t * options.restarts, (t + 1) * options.restarts)
            try:
                results.append(constrained(start.alone(problem), best.v[rows], best.value[rows]))
            except Infeasible as error:
                errors[place] = error
                results.append(None)
        return results
    batch = Batch(problems, options)
    best, interrupted, dead = ascend(batch)
    return list(finish(batch, best, interrupted, dead))


def _still(batch: Batch) -> tuple[Best, bool, Tensor]:
    """Starts as they are, and the prior's centre, where only Ω counts."""
    v = batch.starts().clone()
    v[batch.options.restarts - 1 :: batch.options.restarts] = 0.0
    # by their distance from the centre
    value, gradient = evaluate(lambda w: -0.5 * w.square().sum(1), v)
    return Best(v, value, gradient), False, torch.zeros(len(batch.problems), dtype=torch.bool)


def _without(problem: Problem) -> Any:
    d = problem.dimension
    return compiled(None, (), [""] * d, None, None)


def _bounded_at_all(problems: list[Problem]) -> None:
    """Nothing that holds x: said before the climb."""
    p = problems[0]
    if p.prior is None and not p.space.has_code and not p.region.boxed:
        logs = all(isinstance(term, LogProbability) for q in problems for _, term in q.objective.parts)
        if not logs and not isinstance(p.subject, NetworkSubject):
            raise ArgumentError(
                "nothing holds the input in place: give prior= (priors.Gaussian.fit(X), priors.L2(lam)), data= for the "
                "default prior, or bounds="
            )


def _why_not(problem: Problem) -> str:
    formula = "none that can be read" if problem.formula is None else type(problem.formula).__name__
    return (
        f"exact='require', but no exact solver applies: f of target {problem.objective.name!r} as a formula: "
        f"{formula}; prior: {problem.prior!r}; space: {problem.space!r}"
        f"{'' if problem.region.free else '; with bounds or constraints'}. Exact are linear and quadratic f with L2, "
        "Gaussian and Near (bounds and constraints too), linear f with Mixture, KernelDensity and RBM, k-means, "
        "log-probabilities of linear models, outlier scores, trees, and ReLU networks of up to 64 hidden units with "
        "bounds and L1 or no prior"
    )


def _check(strength: float, exact: str, restarts: int) -> None:
    if not (isinstance(strength, int | float | np.number) and strength > 0):
        raise ArgumentError(
            f"strength={strength!r} must be a number > 0: without Ω nothing keeps x plausible "
            "(prior='none' with bounds= asks for that)"
        )
    if exact not in ("prefer", "require", "never"):
        raise ArgumentError(f"exact={exact!r} must be 'prefer', 'require' or 'never'")
    if not (isinstance(restarts, int) and restarts > 0):
        raise ArgumentError(f"restarts={restarts!r} must be a positive number")


def _refuse_text(subject: Subject) -> None:
    if isinstance(subject, NetworkSubject):
        front = subject.network.front
        texts = [front.names[j] for j in sorted(front.vocabulary.codes) if j in front.used]
        if texts:
            raise ArgumentError(
                f"column {texts[0]!r} holds text, which cannot be moved step by step: encode it before the model "
                "(columns of 0 and 1) and give constraints=[onehot(...)]"
            )


def _misfit(rows: Tensor, shape: tuple[int, ...]) -> Tensor:
    raise DataError(f"data have rows of the shape {tuple(rows.shape[1:])}, but an input has the shape {shape}")


def _shape(
    subject: Subject, rows: Tensor | None, prior: Prior | None, bounds: Any, space: Space, init: Any
) -> tuple[int, ...]:
    if isinstance(subject, NetworkSubject | TreeSubject):
        assert subject.shape is not None
        return subject.shape
    if space.shape is not None:
        return tuple(space.shape)
    if rows is not None:
        return tuple(rows.shape[1:])
    if isinstance(init, Tensor | np.ndarray) and init.ndim > 1:
        return tuple(init.shape[1:])
    if prior is not None and prior.shape is not None:
        return prior.shape
    sides = bounds if isinstance(bounds, tuple | list) else ()
    sizes = [np.shape(side) for side in sides if np.ndim(side) > 0]
    if sizes:
        return tuple(sizes[0])
    if subject.shape is not None:
        return subject.shape
    if prior is not None and prior.dimension is not None:
        return (prior.dimension,)
    raise ArgumentError("the shape of an input is not known: give data=, or space=backlight.spaces.Input(shape)")


def _prior(prior: Prior | str | None, rows: Tensor | None, space: Space, strength: float) -> Prior | None:
    if prior == "none":
        return None
    if prior is not None:
        if not isinstance(prior, Prior):
            raise ArgumentError(
                f"prior must be one of backlight.priors, not {type(prior).__name__}: a fitted density goes through "
                "priors.from_estimator, a function through priors.LogProb"
            )
        return prior
    if space.has_code and (isinstance(space, Generator) or space.affine() is not None):
        return L2(0.5)
    if rows is not None:
        return Gaussian.fit(rows)
    if math.isinf(strength):
        raise ArgumentError("strength=inf asks for the smallest Ω, which needs a prior such as priors.Near(x0)")
    return None


def _example(rows: Tensor | None, prior: Prior | None, shape: tuple[int, ...]) -> Tensor:
    """A few inputs to look at outputs and formulas with."""
    generator = torch.Generator().manual_seed(0)
    if rows is not None:
        picked = rows[torch.randperm(len(rows), generator=generator)[:8]]
    else:
        d = math.prod(shape)
        drawn = None if prior is None or prior.on_code else prior.draw(8, generator)
        picked = drawn if drawn is not None and drawn.shape[1] == d else torch.randn(8, d, generator=generator).double()
    return picked.reshape(len(picked), *shape)


def _names(data: Any, default: tuple[str, ...]) -> tuple[str, ...]:
    if isinstance(data, Tensor | np.ndarray):
        return default
    frame = as_frame(data)
    return frame.names if frame.named and len(frame.names) == len(default) else default


def _kind(data: Any) -> str:
    if data is None or isinstance(data, Tensor):
        return "numpy"
    if isinstance(data, np.ndarray):
        return "numpy"
    return as_frame(data).kind


def _targets(target: Any, subject: Subject) -> list[Target]:
    if isinstance(target, list) and any(isinstance(one, Target) or callable(one) for one in target):
        return [_target(one, subject) for one in target]
    return [_target(target, subject)]


def _target(target: Any, subject: Subject) -> Target:
    if isinstance(target, Target):
        return target
    if target is None:
        return targets.logit("all")
    if callable(target) and not isinstance(target, Tensor):
        return targets.function(target)
    if isinstance(target, str | int | np.integer):
        return targets.logit(target)
    if isinstance(target, list) and target and all(isinstance(t, str | int | np.integer) for t in target):
        return targets.logit(target)
    array = np.asarray(target.detach() if isinstance(target, Tensor) else target)
    if array.ndim == 1 and np.issubdtype(array.dtype, np.floating):
        return targets.direction(array)
    if array.ndim == 1 and np.issubdtype(array.dtype, np.integer):
        return targets.logit([int(i) for i in array])
    raise ArgumentError(
        f"target={target!r} is not known: give an index, a name, a list of these, 'all', a float direction over the "
        f"{len(subject.outputs)} outputs, a function of the output, or one of backlight.targets"
    )


def _logits(subject: Subject, objectives: list[Objective], example: Tensor) -> None:
    """Refuse logits of a model that gives probabilities, and probabilities of one that has none."""
    wants_p = any(isinstance(term, LogProbability) for o in objectives for _, term in o.parts)
    plain = any(term.layer is None and not isinstance(term, LogProbability) for o in objectives for _, term in o.parts)
    if isinstance(subject, ModuleSubject) and not subject.has_logits and plain:
        raise ArgumentError(
            f"the outputs of {subject.kind} are probabilities ({subject.ends_in} at the end), not logits: give "
            "target=targets.log_probability(class), or the network without its last step"
        )
    if wants_p and isinstance(subject, TreeSubject):
        raise ArgumentError("the outputs of a tree are probabilities already: give target=targets.logit(class)")
    if wants_p and isinstance(subject, NetworkSubject):
        seen = subject.see(example)
        logits = seen.output if seen.logits is None else seen.logits
        assert logits is not None
        told = subject.probabilities_of(example)
        here = torch.softmax(logits, 1).detach().numpy()
        if told is None or told.shape != here.shape or np.abs(told - here).max() > 1e-7:
            raise ArgumentError(
                f"probabilities of this {subject.kind} are not the softmax of its score "
                f"{subject.network.score.name!r}: give target=targets.logit(class), or the network "
                "backlight.neuralize(model, score='probability') where the model has that score"
            )


def _rivals(
    subject: Subject, objective: Objective, margin: float | None, example: Tensor
) -> list[tuple[np.ndarray, float]] | None:
    """w·x + b ≥ 0 for each rival, where outputs are linear functions."""
    if margin is None or objective.wanted is None or isinstance(subject, TreeSubject):
        return None
    found = []
    for k in range(len(subject.outputs)):
        if k == objective.wanted:
            continue
        lead = targets.difference(int(objective.wanted), k).expand(subject.outputs)[0]
        formula: Formula | None = formula_of(subject, lead, networks=False)
        if not isinstance(formula, Linear):
            return None
        checked(formula, subject, lead, example)
        found.append((formula.w, formula.b - margin))
    return found


def _reporter(progress: bool | Progress | None) -> Progress:
    if callable(progress):
        return progress
    if not progress:
        return lambda done, total: None

    def show(done: int, total: int) -> None:
        if done % 5 == 0 or done >= total:
            sys.stderr.write(f"\rstep {done} of {total}" + ("\n" if done >= total else ""))
            sys.stderr.flush()

    return show
