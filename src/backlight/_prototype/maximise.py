"""From what `backlight.prototype` was asked to a solution for each target (one procedure)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backlight import targets
from backlight._prototype.constrained import constrained, held, needs_programs
from backlight._prototype.ensemble import EnsembleSubject
from backlight._prototype.exact import SOLVERS
from backlight._prototype.exact.leaf_search import search
from backlight._prototype.exact.mixed_integer import MOST_UNITS
from backlight._prototype.formula import Linear, Network
from backlight._prototype.formulas import checked, formula_of
from backlight._prototype.gradient_ascent import Batch, Options, ascend, finish
from backlight._prototype.optimizer import Best, evaluate
from backlight._prototype.plausible import among_rows
from backlight._prototype.problem import Certificate, Found, Problem, whitening_of
from backlight._prototype.setup import Setup
from backlight._prototype.several import center_of_prior, several
from backlight._prototype.subject import ModuleSubject, NetworkSubject, Subject, TreeSubject, subject_of
from backlight.arguments import numbers_in, shown
from backlight.constraints import Region, compiled, onehot
from backlight.errors import ArgumentError, DataError, Infeasible, NoPrototype, NotFound, Unbounded, warn
from backlight.models.explained import Progress, reporter
from backlight.priors import L1, L2, Gaussian, Prior
from backlight.priors.base import ordinary
from backlight.spaces import Generator, Input, Space
from backlight.tables import as_frame
from backlight.targets import Target
from backlight.targets.base import Objective
from backlight.targets.outputs import LogProbability

__all__ = ["Progress", "Solution", "maximise"]


_STATUSES: dict[type[NoPrototype], str] = {Unbounded: "unbounded", NotFound: "not_found", Infeasible: "infeasible"}


@dataclass(frozen=True, slots=True, eq=False)
class Solution:
    """What was solved and what was found, one of each for a target; the kind of the data; the shape of an input.

    ``setup`` is what was asked, with a prior that knows the model's columns.
    """

    problems: list[Problem]
    found: list[Found]
    kind: str
    shape: tuple[int, ...]
    setup: Setup


def maximise(setup: Setup, progress: bool | Progress | None = None) -> Solution:
    """See `backlight.prototype`."""
    model, target, prior, data, strength = setup.model, setup.target, setup.prior, setup.data, setup.strength
    space, bounds, constraints, init = setup.space, setup.bounds, setup.constraints, setup.init
    restarts, exact = setup.restarts, setup.exact
    _check(strength, exact, restarts)
    if isinstance(setup.count, bool) or not isinstance(setup.count, int) or setup.count < 1:
        raise ArgumentError(f"count={setup.count!r} must be a whole number from 1")
    if setup.apart is not None:
        ordinary(setup.apart, "apart", "answers that are apart by nothing are one answer")
    subject = subject_of(model)
    if isinstance(prior, Prior):
        prior = prior.located(subject.encode, subject.groups)
        setup = replace(setup, prior=prior)
    rows = None if data is None else subject.encode(data)
    space_ = Input() if space is None else space
    if not isinstance(space_, Space):
        raise ArgumentError(f"space= must be one of backlight.spaces, not {shown(space)}")
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
    if prior_ is not None and not (prior_.on_code and space_.has_code):
        prior_.check_columns(names)
    whole = [*constraints, *(onehot(*group) for group in subject.groups)]
    center = center_of_prior(prior_)
    if subject.categories is not None:
        whole = subject.categories.rules(whole, bounds, center)
    region = compiled(bounds, whole, names, center, None if flat is None else flat.numpy())
    objectives = [one for wanted in _targets(target, subject) for one in wanted.expand(subject.outputs)]
    _logits(subject, objectives, example)
    if math.isinf(strength) and region.free:
        raise ArgumentError("strength=inf asks for the smallest Ω alone, which needs constraints=[decision()]")
    white = whitening_of(prior_, space_, strength, math.prod(shape))
    if region.margin is not None:
        _decidable(subject, objectives)
    problems = []
    for objective in objectives:
        problem = Problem(subject, objective, prior_, space_, strength, region, white, None, None, flat, shape, names)
        problems.append(problem if exact == "never" else _read(problem, example, exact))
    options = Options(init, restarts, setup.optimizer, setup.steps, setup.seed, reporter(progress, "steps", every=5))
    found = _solve(problems, options, exact)
    if setup.count > 1:
        problems, found = several(
            problems, found, lambda one: _solve([one], options, exact)[0], setup.count, setup.apart
        )
    return Solution(problems, found, _kind(data), shape, setup)


def _read(problem: Problem, example: Tensor, exact: str) -> Problem:
    """The problem with f and the decision as formulas, where they have some."""
    subject, objective, region = problem.subject, problem.objective, problem.region
    convex = problem.prior is None or isinstance(problem.prior, L1)
    formula = None
    if objective.transform is None and not (problem.smallest and convex):
        formula = formula_of(subject, objective, networks=exact == "require" or (region.boxed and convex))
        if formula is not None:
            checked(formula, subject, objective, example)
    leads = _leads(subject, objective, region, example, convex or exact == "require")
    if leads is None:
        return replace(problem, formula=formula)
    lines = [lead for lead in leads if isinstance(lead, Linear)]
    if len(lines) == len(leads):
        return replace(problem, formula=formula, rivals=[(lead.w, lead.b) for lead in lines])
    return replace(problem, formula=formula, networks=[lead for lead in leads if isinstance(lead, Network)])


def _leads(
    subject: Subject, objective: Objective, region: Region, example: Tensor, wanted_whole: bool
) -> list[Linear] | list[Network] | None:
    """What must not be negative for the decision: one formula a rival, all of one kind."""
    if region.margin is None or objective.wanted is None or isinstance(subject, TreeSubject | EnsembleSubject):
        return None
    networks = region.boxed and (region.mixed or region.few or wanted_whole)
    if not subject.classifies:
        asked = targets.logit(0).expand(subject.outputs)[0]
        formula = formula_of(subject, asked, networks=False)
        if not isinstance(formula, Linear):
            return None
        # leads are a sign times the score, and a constant
        ends = subject.leads(torch.tensor([[0.0], [1.0]], dtype=torch.float64), 0).flatten()
        sign, shift = float(ends[1] - ends[0]), float(ends[0])
        return [Linear(sign * formula.w, sign * formula.b + shift - region.margin)]
    found: list[Any] = []
    for k in range(len(subject.outputs)):
        if k == objective.wanted:
            continue
        lead = targets.difference(int(objective.wanted), k).expand(subject.outputs)[0]
        one = formula_of(subject, lead, networks=networks)
        if not isinstance(one, Linear | Network) or (isinstance(one, Network) and one.units > MOST_UNITS):
            return None
        checked(one, subject, lead, example)
        found.append(Linear(one.w, one.b - region.margin) if isinstance(one, Linear) else one)
    return found if len({type(one) for one in found}) == 1 else None


def _decidable(subject: Subject, objectives: list[Objective]) -> None:
    if not subject.decides:
        raise ArgumentError(
            f"constraints.decision() needs a classifier, or a detector with a threshold: {subject.kind} gives "
            f"{subject.outputs[0]!r} and decides nothing"
        )
    if any(o.wanted is None for o in objectives):
        raise ArgumentError("constraints.decision() needs a class as target: an index, a name, or logit(class)")


def _solve(problems: list[Problem], options: Options, exact: str) -> list[Found]:
    """What was found for each target; raises where that is nothing for all of them."""
    found: dict[int, Found] = {}
    errors: dict[int, NoPrototype] = {}
    rest = []
    for t, problem in enumerate(problems):
        try:
            if problem.region.plausible is not None:
                found[t] = among_rows(problem, lambda inside: _solve([inside], options, exact)[0])
                continue
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
        ways = _searched if isinstance(problems[0].subject, EnsembleSubject) else _climbed
        climbed = ways([problems[t] for t in rest], options, errors, rest)
        found |= {t: result for t, result in zip(rest, climbed, strict=True) if result is not None}
    errors |= {t: Unbounded(result.notes[-1]) for t, result in found.items() if result.status == "unbounded"}
    if len(errors) == len(problems):
        raise next(iter(errors.values()))
    for t, reason in errors.items():
        status = _STATUSES.get(type(reason), "infeasible")
        d = problems[t].dimension
        nothing = np.full(d, math.nan)
        found[t] = Found(nothing, status, Certificate("none", math.inf, False), None, notes=[str(reason)])
        warn(f"target {problems[t].objective.name!r}: {reason}")
    return [found[t] for t in range(len(problems))]


def _exact(problem: Problem) -> Found | None:
    for solver in SOLVERS:
        found = solver(problem)
        if found is not None:
            return found
    return None


def _searched(
    problems: list[Problem], options: Options, errors: dict[int, NoPrototype], places: list[int]
) -> list[Found | None]:
    found = [search(problem) for problem in problems]
    for problem, place, result in zip(problems, places, found, strict=True):
        if result is None:
            errors[place] = NotFound(
                f"a search found no input with what is asked for target {problem.objective.name!r}: there may be one"
            )
    return found


def _climbed(
    problems: list[Problem], options: Options, errors: dict[int, NoPrototype], places: list[int]
) -> list[Found | None]:
    _bounded_at_all(problems)
    problems = [held(p) for p in problems]
    if problems[0].region.few:
        raise ArgumentError(
            "sparse() and count= are for linear models, trees and small ReLU networks with bounds, and for priors.L1 "
            "or quadratic priors such as priors.Near"
        )
    if needs_programs(problems[0]):
        start = Batch([replace(p, region=_without(p)) for p in problems], options)
        best, _, _ = ascend(start) if not problems[0].smallest else _still(start)
        results: list[Found | None] = []
        for t, (problem, place) in enumerate(zip(problems, places, strict=True)):
            rows = slice(t * options.restarts, (t + 1) * options.restarts)
            try:
                results.append(constrained(start.alone(problem), best.v[rows], best.value[rows]))
            except NoPrototype as error:
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
    if strength != math.inf:
        ordinary(strength, "strength", "without Ω nothing keeps x plausible (prior='none' with bounds= asks for that)")
    if exact not in ("prefer", "require", "never"):
        raise ArgumentError(f"exact={exact!r} must be 'prefer', 'require' or 'never'")
    if not (isinstance(restarts, int) and restarts > 0):
        raise ArgumentError(f"restarts={restarts!r} must be a positive number")


def _misfit(rows: Tensor, shape: tuple[int, ...]) -> Tensor:
    raise DataError(f"data have rows of the shape {tuple(rows.shape[1:])}, but an input has the shape {shape}")


def _shape(
    subject: Subject, rows: Tensor | None, prior: Prior | None, bounds: Any, space: Space, init: Any
) -> tuple[int, ...]:
    if isinstance(subject, NetworkSubject | TreeSubject | EnsembleSubject):
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
    if isinstance(target, Tensor | np.ndarray | list | tuple):
        array = numbers_in(target.detach() if isinstance(target, Tensor) else target, "target")
    else:
        array = np.empty((0, 0))
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
    if wants_p and isinstance(subject, TreeSubject | EnsembleSubject):
        raise ArgumentError("the outputs of trees are no logits of a softmax: give target=targets.logit(class)")
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
